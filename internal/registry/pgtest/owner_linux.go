package pgtest

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"testing"
)

// An owner is who the server runs as; nil: who runs the test.
type owner *syscall.Credential

// giveAway gives a folder to a user without rights, where the test runs as root: the server refuses that.
func giveAway(t testing.TB, dir string) owner {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	t.Fatal("neither the user postgres nor nobody is there to run a server as")
	return nil
}

func run(c *exec.Cmd, as owner) {
	c.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT} // ends with the test, however that ends
}

func quit(p *os.Process) { p.Signal(syscall.SIGQUIT) } // fails if it has ended
