package hardware

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// tree makes a fake system below a folder of its own: "path" -> content, or "path" -> "@target" for a symbolic link.
func tree(t *testing.T, files map[string]string) machine {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "@"); ok {
			var rel string
			if rel, err = filepath.Rel(filepath.Dir(path), target); err == nil {
				err = os.Symlink(rel, full)
			}
		} else {
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return machine{root: root, permanentMAC: func(string) ([]byte, error) { return nil, unix.EOPNOTSUPP }}
}

func mounted(device, source string) string {
	return "1 0 " + device + " / / rw - ext4 " + source + " rw\n2 1 0:5 / /proc rw shared:1 - proc proc rw\n"
}

// disk is what sysfs has for a disk and one partition of it.
func disk(files map[string]string, name, dir string, numbers [2]string, serial map[string]string) {
	full := dir + "/" + name
	files["sys/block/"+name] = "@" + full
	files["sys/class/block/"+name] = "@" + full
	files["sys/class/block/"+name+"p1"] = "@" + full + "/" + name + "p1"
	files["sys/dev/block/"+numbers[0]] = "@" + full
	files["sys/dev/block/"+numbers[1]] = "@" + full + "/" + name + "p1"
	files[full+"/size"] = "1000\n"
	files[full+"/"+name+"p1/partition"] = "1\n"
	for k, v := range serial {
		files[full+"/"+k] = v
	}
}

func TestGatherFromSysfs(t *testing.T) {
	t.Parallel()
	const pci = "sys/devices/pci0000:00/"
	files := map[string]string{
		"sys/firmware/dmi/tables/DMI": string(testTable),
		"proc/self/mountinfo":         mounted("259:1", "/dev/nvme0n1p1"),
		"sys/block/loop0":             "@sys/devices/virtual/block/loop0", "sys/devices/virtual/block/loop0/serial": "LOOP",

		"sys/class/net/lo/type":     "772\n",
		"sys/class/net/virbr0/type": "1\n", "sys/class/net/virbr0/address": "52:54:00:00:00:01\n",
		// on the board: the driver tells the burnt-in address
		"sys/class/net/eno1": "@" + pci + "0000:00:1f.6/net/eno1", pci + "0000:00:1f.6/net/eno1/type": "1\n",
		pci + "0000:00:1f.6/net/eno1/address": "02:00:00:00:00:07\n", pci + "0000:00:1f.6/net/eno1/addr_assign_type": "3\n",
		pci + "0000:00:1f.6/net/eno1/device": "@" + pci + "0000:00:1f.6", pci + "0000:00:1f.6/subsystem": "@sys/bus/pci", "sys/bus/pci/x": "",
		// in a dock
		"sys/class/net/enp9": "@" + pci + "0000:09:00.0/net/enp9", pci + "0000:09:00.0/net/enp9/type": "1\n",
		pci + "0000:09:00.0/net/enp9/address": "00:01:02:03:04:05\n", pci + "0000:09:00.0/net/enp9/addr_assign_type": "0\n",
		pci + "0000:09:00.0/net/enp9/device": "@" + pci + "0000:09:00.0", pci + "0000:09:00.0/removable": "removable\n",
		// on USB, two steps up
		"sys/class/net/enx1": "@" + pci + "usb1/1-1/1-1:1.0/net/enx1", pci + "usb1/1-1/1-1:1.0/net/enx1/type": "1\n",
		pci + "usb1/1-1/1-1:1.0/net/enx1/address": "00:01:02:03:04:06\n", pci + "usb1/1-1/1-1:1.0/net/enx1/addr_assign_type": "1\n",
		pci + "usb1/1-1/1-1:1.0/net/enx1/device": "@" + pci + "usb1/1-1/1-1:1.0", pci + "usb1/1-1/subsystem": "@sys/bus/usb", "sys/bus/usb/x": "",
		// wireless
		"sys/class/net/wlp2": "@" + pci + "0000:02:00.0/net/wlp2", pci + "0000:02:00.0/net/wlp2/type": "1\n", pci + "0000:02:00.0/net/wlp2/phy80211/x": "",
		pci + "0000:02:00.0/net/wlp2/address": "00:01:02:03:04:07\n", pci + "0000:02:00.0/net/wlp2/addr_assign_type": "0\n",
		pci + "0000:02:00.0/net/wlp2/device": "@" + pci + "0000:02:00.0",
	}
	disk(files, "nvme0n1", pci+"nvme/nvme0", [2]string{"259:0", "259:1"}, map[string]string{"device/serial": "NVME1   \n"})
	disk(files, "sda", pci+"ata1/block", [2]string{"8:0", "8:1"}, map[string]string{"device/vpd_pg80": "\x00\x80\x00\x08 SATA1  "})
	disk(files, "sdb", pci+"ata2/block", [2]string{"8:16", "8:17"}, map[string]string{"device/wwid": "naa.5000\n"})
	disk(files, "vda", pci+"virtio/block", [2]string{"252:0", "252:1"}, map[string]string{"serial": "VIRTIO1"})
	m := tree(t, files)
	m.permanentMAC = func(name string) ([]byte, error) {
		if name == "eno1" {
			return []byte{0, 0x11, 0x22, 0x33, 0x44, 0xAA}, nil
		}
		if name == "enx1" {
			return make([]byte, 6), nil // what drivers say that do not know
		}
		return nil, unix.EOPNOTSUPP
	}
	got, err := m.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Facts{
		SystemUUID: "55e3ae13-bfd2-61bb-17a0-88aedd7037ea", SystemSerial: "SYS?1", BoardSerial: "BOARD", ChassisSerial: "CASE", SMBIOSAMT: true,
		Disks: []Disk{{"NVME1", true}, {"SATA1", false}, {"naa.5000", false}, {"VIRTIO1", false}},
		NICs: []NIC{{"00-11-22-33-44-AA", true, true}, {"00-01-02-03-04-05", true, false}, {"00-01-02-03-04-06", false, false},
			{"00-01-02-03-04-07", true, false}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The system disk is found through LUKS on LVM on a mirror, by device number and, for btrfs, by name.
func TestSystemDiskThroughLayers(t *testing.T) {
	t.Parallel()
	for name, mountinfo := range map[string]string{
		"by number":       mounted("254:1", "/dev/mapper/root"),
		"by name":         mounted("0:31", "/dev/mapper/root"),
		"mounted over":    mounted("8:33", "/dev/sdc1") + mounted("254:1", "/dev/mapper/root"),
		"optional fields": "1 0 254:1 / / rw shared:1 master:2 - btrfs /dev/mapper/root rw\n",
		"with cut lines":  "1 0\n\n - \n" + mounted("254:1", "/dev/mapper/root"),
	} {
		const virtual = "sys/devices/virtual/block/"
		files := map[string]string{
			"proc/self/mountinfo": mountinfo,
			"dev/mapper/root":     "@dev/dm-1", "dev/dm-1": "",
			"sys/dev/block/254:1": "@" + virtual + "dm-1", "sys/class/block/dm-1": "@" + virtual + "dm-1", "sys/block/dm-1": "@" + virtual + "dm-1",
			virtual + "dm-1/slaves/dm-0": "@" + virtual + "dm-0", "sys/class/block/dm-0": "@" + virtual + "dm-0",
			virtual + "dm-0/slaves/md0": "@" + virtual + "md0", "sys/class/block/md0": "@" + virtual + "md0",
			virtual + "md0/slaves/sdap1": "@sys/devices/ata1/sda/sdap1", virtual + "md0/slaves/sdbp1": "@sys/devices/ata2/sdb/sdbp1",
		}
		for i, d := range []string{"sda", "sdb", "sdc"} {
			disk(files, d, "sys/devices/ata"+string(rune('1'+i)), [2]string{"8:" + string(rune('0'+i)), "8:3" + string(rune('1'+i))}, map[string]string{"serial": strings.ToUpper(d)})
		}
		got, err := tree(t, files).gather(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Disk{{"SDA", true}, {"SDB", true}, {"SDC", false}}, got.Disks); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A machine without DMI and without /sys is no error; a loop of layers ends; what is damaged is said, with the rest.
func TestGatherTakesWhatThereIs(t *testing.T) {
	t.Parallel()
	got, err := tree(t, nil).gather(t.Context())
	if diff := cmp.Diff(Facts{}, got); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	got, err = tree(t, map[string]string{
		"proc/self/mountinfo": mounted("254:0", "/dev/dm-0"), "sys/dev/block/254:0": "@sys/d/dm-0", "sys/class/block/dm-0": "@sys/d/dm-0",
		"sys/d/dm-0/slaves/dm-0": "@sys/d/dm-0", "sys/block/sda": "@nowhere",
		"sys/firmware/dmi/tables/DMI": string(structure(3, []byte{0, 0, 0, 1}, "CASE")) + "\x01",
	}).gather(t.Context())
	if diff := cmp.Diff(Facts{ChassisSerial: "CASE"}, got); diff != "" || !errors.Is(err, errTruncated) {
		t.Errorf("%s %v", diff, err)
	}
}

// On whatever machine this runs: no panic, text that can be shown, and no error for what the machine lacks.
func TestGatherHere(t *testing.T) {
	t.Parallel()
	got, err := Gather(t.Context())
	if err != nil && os.Geteuid() == 0 {
		t.Error(err)
	}
	checkHarmless(t, got)
	if _, err := permanentMAC("lo"); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("the driver of lo: %v", err)
	}
	if _, err := permanentMAC("nosuchinterface0"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v", err)
	}
	if _, err := permanentMAC("nosuch0"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v", err)
	}
}
