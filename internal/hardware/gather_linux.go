package hardware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Gather reads the facts of this machine: raw SMBIOS, disks, network interfaces. What this machine does not have or
// say stays empty and is no error; an error (no permission to read SMBIOS, say) comes with everything that could be
// found out all the same. It needs root. The TPM is not asked.
func Gather(ctx context.Context) (Facts, error) {
	return machine{root: "/", permanentMAC: permanentMAC}.gather(ctx)
}

// machine is a Linux system: where its /sys and /proc are, and how to ask an interface for its burnt-in address.
type machine struct {
	root         string
	permanentMAC func(name string) ([]byte, error)
}

func (m machine) gather(ctx context.Context) (Facts, error) {
	var f Facts
	var errs []error
	if table, err := m.read("sys/firmware/dmi/tables/DMI", maxTable); err == nil {
		errs = append(errs, readSMBIOS(table, &f))
	} else if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("SMBIOS: %w", err))
	}
	var err error
	if f.Disks, err = m.disks(ctx); err != nil {
		errs = append(errs, fmt.Errorf("disks: %w", err))
	}
	if f.NICs, err = m.nics(ctx); err != nil {
		errs = append(errs, fmt.Errorf("network interfaces: %w", err))
	}
	return f, errors.Join(append(errs, ctx.Err())...)
}

func (m machine) read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(m.root, path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// text is a one-line file of sysfs; "" if it is not there.
func (m machine) text(path string) string {
	b, err := m.read(path, 4096)
	if err != nil {
		return ""
	}
	return printable(string(bytes.Trim(b, "\x00")))
}

func (m machine) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(m.root, path))
	return err == nil
}

// resolve follows symbolic links and is a path below root again.
func (m machine) resolve(path string) (string, error) {
	root, err := filepath.EvalSymlinks(m.root)
	if err != nil {
		return "", err
	}
	full, err := filepath.EvalSymlinks(filepath.Join(m.root, path))
	if err != nil {
		return "", err
	}
	return filepath.Rel(root, full)
}

// list are the names in a folder, sorted; none if it is not there.
func (m machine) list(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(m.root, path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// disks are the disks that can be told apart by a serial number, those that hold the running system first.
func (m machine) disks(ctx context.Context) ([]Disk, error) {
	system := m.systemDisks()
	names, err := m.list("sys/block")
	var out []Disk
	for _, name := range names {
		if ctx.Err() != nil || len(out) == maxItems {
			break
		}
		if madeOfOthers(name) {
			continue
		}
		dir, err := m.resolve("sys/block/" + name)
		if err != nil {
			continue
		}
		if serial := m.diskSerial(dir); serial != "" {
			out = append(out, Disk{Serial: serial, System: slices.Contains(system, dir)})
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

// madeOfOthers knows block devices that are no disks of this PC: memory, files, networks, and what dm and md build.
func madeOfOthers(name string) bool {
	for _, prefix := range []string{"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "rbd", "drbd", "bcache"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// diskSerial tries what the kinds of disks have: virtio; NVMe and MMC; SCSI and SATA; else the world-wide name.
func (m machine) diskSerial(dir string) string {
	for _, file := range []string{"serial", "device/serial"} {
		if s := m.text(dir + "/" + file); s != "" {
			return s
		}
	}
	if b, err := m.read(dir+"/device/vpd_pg80", 4096); err == nil {
		if s := vpdSerial(b); s != "" {
			return s
		}
	}
	for _, file := range []string{"device/wwid", "wwid"} {
		if s := m.text(dir + "/" + file); s != "" {
			return s
		}
	}
	return ""
}

// systemDisks are the folders (below root) of the disks that hold "/", through partitions, device mapper and md.
func (m machine) systemDisks() []string {
	var out []string
	var walk func(path string, depth int)
	walk = func(path string, depth int) {
		dir, err := m.resolve(path)
		if err != nil || depth == 8 || len(out) == maxItems {
			return
		}
		slaves, _ := m.list(dir + "/slaves")
		for _, s := range slaves {
			walk("sys/class/block/"+s, depth+1)
		}
		if len(slaves) > 0 {
			return
		}
		if m.exists(dir + "/partition") {
			walk(filepath.Dir(dir), depth+1)
			return
		}
		if !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	for _, path := range m.rootDevices() {
		walk(path, 0)
	}
	return out
}

// rootDevices are the sysfs paths of what is mounted as "/". The device number serves; where the file system has none
// of its own (btrfs), the name of what was mounted.
func (m machine) rootDevices() []string {
	b, err := m.read("proc/self/mountinfo", 4<<20)
	if err != nil {
		return nil
	}
	var device, source string
	for line := range strings.Lines(string(b)) {
		// proc(5): id parent major:minor root mount-point options optional... - type source super-options
		before, after, ok := strings.Cut(line, " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) >= 6 && len(tail) >= 2 && fields[4] == "/" {
			device, source = fields[2], tail[1] // the last one mounted is the one seen
		}
	}
	var out []string
	if device != "" && !strings.HasPrefix(device, "0:") && !strings.Contains(device, "/") {
		out = append(out, "sys/dev/block/"+device)
	} else if name, ok := strings.CutPrefix(source, "/dev/"); ok {
		if to, err := m.resolve("dev/" + name); err == nil { // /dev/mapper/... is a link
			name = filepath.Base(to)
		}
		out = append(out, "sys/class/block/"+filepath.Base(name))
	}
	return out
}

// nics are the Ethernet interfaces that have a device behind them.
func (m machine) nics(ctx context.Context) ([]NIC, error) {
	names, err := m.list("sys/class/net")
	var out []NIC
	for _, name := range names {
		if ctx.Err() != nil || len(out) == maxItems {
			break
		}
		dir := "sys/class/net/" + name
		if !m.exists(dir+"/device") || m.text(dir+"/type") != "1" { // ARPHRD_ETHER
			continue
		}
		n := NIC{Onboard: m.onboard(dir)}
		if raw, err := m.permanentMAC(name); err == nil && len(raw) == 6 && !bytes.Equal(raw, make([]byte, 6)) {
			n.MAC, n.Permanent = formatMAC(raw), true
		} else if mac, ok := normalizeMAC(m.text(dir + "/address")); ok {
			n.MAC, n.Permanent = mac, m.text(dir+"/addr_assign_type") == "0" // NET_ADDR_PERM
		} else {
			continue
		}
		out = append(out, n)
	}
	return out, err
}

// onboard reports whether an interface sits on the board: not on USB, not behind a port for docks, and not a wireless
// module, which is changed more easily than a board.
func (m machine) onboard(dir string) bool {
	if m.exists(dir+"/phy80211") || m.exists(dir+"/wireless") {
		return false
	}
	at, err := m.resolve(dir + "/device")
	if err != nil {
		return false
	}
	for range 32 {
		if at == "sys/devices" || at == "." || at == "/" {
			return true
		}
		bus, err := m.resolve(at + "/subsystem")
		if err == nil && (filepath.Base(bus) == "usb" || filepath.Base(bus) == "thunderbolt") || m.text(at+"/removable") == "removable" {
			return false
		}
		at = filepath.Dir(at)
	}
	return false
}

// permanentMAC asks the driver for the burnt-in address (ethtool, ETHTOOL_GPERMADDR).
func permanentMAC(name string) ([]byte, error) {
	if len(name) >= unix.IFNAMSIZ {
		return nil, unix.EINVAL
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	request := struct {
		cmd, size uint32
		data      [32]byte
	}{cmd: unix.ETHTOOL_GPERMADDR, size: 32}
	ifreq := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte // struct ifreq has a union of 24 bytes
	}{data: unsafe.Pointer(&request)}
	copy(ifreq.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq))); errno != 0 {
		return nil, errno
	}
	return bytes.Clone(request.data[:min(request.size, 32)]), nil
}
