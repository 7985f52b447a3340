package hardware

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// Control codes and the OID of the Windows SDK (winioctl.h, ntddstor.h, ntddndis.h).
const (
	ioctlVolumeGetVolumeDiskExtents = 0x00560000
	ioctlStorageQueryProperty       = 0x002D1400
	ioctlNDISQueryGlobalStats       = 0x00170002
	oid8023PermanentAddress         = 0x01010101
	rsmb                            = 0x52534D42 // firmware table provider 'RSMB': raw SMBIOS
	ifTypeEthernet                  = 6
	networkClass                    = `SYSTEM\CurrentControlSet\Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}\`
)

var getSystemFirmwareTable = windows.NewLazySystemDLL("kernel32.dll").NewProc("GetSystemFirmwareTable")

// Gather reads the facts of this machine: raw SMBIOS, disks, network interfaces. What this machine does not have or
// say stays empty and is no error; an error comes with everything that could be found out all the same. It needs an
// administrator. The TPM is not asked.
func Gather(ctx context.Context) (Facts, error) {
	var f Facts
	var errs []error
	if raw, err := firmwareTable(); err != nil {
		errs = append(errs, fmt.Errorf("SMBIOS: %w", err))
	} else if table, err := rawSMBIOSTable(raw); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, readSMBIOS(table, &f))
	}
	var err error
	if f.Disks, err = disks(ctx); err != nil {
		errs = append(errs, fmt.Errorf("disks: %w", err))
	}
	if f.NICs, err = nics(ctx); err != nil {
		errs = append(errs, fmt.Errorf("network interfaces: %w", err))
	}
	return f, errors.Join(append(errs, ctx.Err())...)
}

func firmwareTable() ([]byte, error) {
	size, _, err := getSystemFirmwareTable.Call(rsmb, 0, 0, 0)
	if size == 0 {
		return nil, err
	}
	buf := make([]byte, min(size, maxTable+8))
	size, _, err = getSystemFirmwareTable.Call(rsmb, 0, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	if size == 0 || size > uintptr(len(buf)) {
		return nil, err
	}
	return buf[:size], nil
}

// disks are the first maxItems disks that state a serial number, those that hold Windows first.
func disks(ctx context.Context) ([]Disk, error) {
	system, err := systemDisks()
	var out []Disk
	for n := range uint32(maxItems) {
		if ctx.Err() != nil {
			break
		}
		// A storage property query: device property (0), standard query (0), and a byte of room.
		b, err := query(fmt.Sprintf(`\\.\PhysicalDrive%d`, n), ioctlStorageQueryProperty, make([]byte, 12), 4096)
		if err != nil {
			continue // numbers have gaps; what cannot be asked has no serial number
		}
		if s := storageSerial(b); s != "" {
			out = append(out, Disk{Serial: s, System: slices.Contains(system, n)})
		}
	}
	slices.SortStableFunc(out, func(a, b Disk) int {
		switch {
		case a.System == b.System:
			return 0
		case a.System:
			return -1
		default:
			return 1
		}
	})
	return out, err
}

func systemDisks() ([]uint32, error) {
	dir, err := windows.GetSystemWindowsDirectory()
	if err != nil {
		return nil, err
	}
	if len(dir) < 2 || dir[1] != ':' {
		return nil, fmt.Errorf("the Windows folder %s has no drive letter", dir)
	}
	b, err := query(`\\.\`+dir[:2], ioctlVolumeGetVolumeDiskExtents, nil, 8+24*maxItems)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", dir[:2], err)
	}
	return volumeDisks(b), nil
}

// query opens a device without access rights, which these queries need none of, and sends it one control code.
func query(device string, code uint32, in []byte, room int) ([]byte, error) {
	name, err := windows.UTF16PtrFromString(device)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFile(name, 0, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return nil, err
	}
	defer windows.CloseHandle(h)
	var inPtr *byte
	if len(in) > 0 {
		inPtr = &in[0]
	}
	out := make([]byte, room)
	var n uint32
	if err := windows.DeviceIoControl(h, code, inPtr, uint32(len(in)), &out[0], uint32(room), &n, nil); err != nil {
		return nil, err
	}
	return out[:min(int(n), room)], nil
}

// nics are the Ethernet interfaces that Windows knows. The permanent address comes from the driver; without it, the
// present one is reported as not permanent.
func nics(ctx context.Context) ([]NIC, error) {
	size := uint32(32 << 10)
	var first *windows.IpAdapterAddresses
	for range 4 { // the list can grow between two calls
		buf := make([]uint64, (size+7)/8) // aligned for the structures in it
		first = (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err := windows.GetAdaptersAddresses(windows.AF_UNSPEC, windows.GAA_FLAG_SKIP_UNICAST|windows.GAA_FLAG_SKIP_ANYCAST|
			windows.GAA_FLAG_SKIP_MULTICAST|windows.GAA_FLAG_SKIP_DNS_SERVER|windows.GAA_FLAG_INCLUDE_ALL_INTERFACES, 0, first, &size)
		if err == nil {
			break
		}
		first = nil
		if errors.Is(err, windows.ERROR_NO_DATA) {
			return nil, nil
		}
		if !errors.Is(err, windows.ERROR_BUFFER_OVERFLOW) || size > 16<<20 {
			return nil, err
		}
	}
	var out []NIC
	for a := first; a != nil && len(out) < maxItems && ctx.Err() == nil; a = a.Next {
		if a.IfType != ifTypeEthernet || a.PhysicalAddressLength != 6 {
			continue
		}
		guid := windows.BytePtrToString(a.AdapterName)
		n := NIC{MAC: formatMAC(a.PhysicalAddress[:6]), Onboard: onboard(guid)}
		oid := binary.LittleEndian.AppendUint32(nil, oid8023PermanentAddress)
		if mac, err := query(`\\.\`+guid, ioctlNDISQueryGlobalStats, oid, 64); err == nil && len(mac) == 6 {
			n.MAC, n.Permanent = formatMAC(mac), true
		}
		out = append(out, n)
	}
	return out, nil
}

// onboard reports whether the adapter's device is on PCI. Adapters on USB and those made of software are not.
func onboard(guid string) bool {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, networkClass+guid+`\Connection`, registry.QUERY_VALUE)
	if err != nil {
		return false
	}
	defer k.Close()
	id, _, err := k.GetStringValue("PnpInstanceID")
	return err == nil && strings.HasPrefix(strings.ToUpper(id), `PCI\`)
}
