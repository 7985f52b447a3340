package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The AMT management user's password was changed in the PCs. It is set once, at the manager: every PC reaches its AMT again
// with its next check-in, running service or not; dcmamtin works with it; a reinstalled PC has it from a file; and it stands
// nowhere but where it is used.
func TestAMTManagementUserChanged(t *testing.T) {
	w := newWorld(t, 2)
	w.initialize(1)
	w.initialize(2)
	pc, other := w.pc(1), w.pc(2)
	id := w.install(pc).HostID
	w.install(other)
	service, err := other.Serve()
	w.must(err)
	w.must(service.UntilSays("checked in"))

	const secret = "Ch4nged-in-the-MEBx"
	for i := 1; i <= 2; i++ {
		w.must(w.firmware.Faults(i, `{"password": "`+secret+`"}`))
	}
	w.checkIn(pc)
	w.want(w.status(pc), id, "generated", "unavailable")

	password, phrase := filepath.Join(w.stage.Dir, "new-password"), filepath.Join(w.stage.Dir, "phrase")
	w.must(os.WriteFile(password, []byte(secret+"\n"), 0o600))
	w.must(os.WriteFile(phrase, []byte("a passphrase of words\n"), 0o600))
	_, err = w.manager.Command("amtsetup", "set", "--password-file", password)
	w.must(err)
	w.checkIn(pc)
	w.want(w.status(pc), id, "generated", "stored")
	w.checkIn(other) // through its service, which goes on
	w.want(w.status(other), "", "generated", "stored")
	if !strings.Contains(service.Output(), "the manager's AMT settings changed") {
		t.Errorf("the service says nothing of it:\n%s", service.Output())
	}

	// Here manager.toml has a password of its own, the former one; told to, dcmamtin goes by the manager's.
	r, err := w.manager.Dcmamtin("/I", w.stage.NetworkAddress(1))
	w.must(err)
	if r.Code != 31 {
		t.Errorf("dcmamtin with the former password: exit code %d", r.Code)
	}
	b, err := os.ReadFile(w.manager.Config)
	w.must(err)
	w.must(os.WriteFile(w.manager.Config, bytes.Replace(b, []byte("\n[amt]\n"), []byte("\n[amt]\nfrom_manager = true\n"), 1), 0o600))
	w.initialize(1)

	// After a disk failure the PC has but what its image says: the former password, and the file.
	file := filepath.Join(w.stage.Dir, "amtsetup.json")
	_, err = w.manager.Command("amtsetup", "export", file, "--passphrase-file", phrase)
	w.must(err)
	w.fail(pc)
	r, err = pc.Command("amtsetup", "import", file, "--passphrase-file", phrase)
	w.must(err)
	if r.Code != 0 {
		t.Fatalf("import: exit code %d: %s", r.Code, r.Stderr)
	}
	w.want(w.install(pc), id, "restored", "stored")

	backup := filepath.Join(w.stage.Dir, "backup.tar")
	_, err = w.manager.Command("backup", backup)
	w.must(err)
	if out := w.manager.Output() + service.Output(); strings.Contains(out, secret) {
		t.Error("a log shows the password")
	}
	w.must(filepath.WalkDir(w.stage.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == password || d.Name() == "settings.json" {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(secret)) && !strings.HasPrefix(path, filepath.Join(w.stage.Dir, "firmware")) {
			t.Errorf("%s holds the password", path)
		}
		return err
	}))
}
