//go:build unix

package play

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// giveAway makes a folder a user's.
func giveAway(dir string, to *user.User) error {
	uid, err1 := strconv.Atoi(to.Uid)
	gid, err2 := strconv.Atoi(to.Gid)
	return errors.Join(err1, err2, os.Chown(dir, uid, gid))
}

// runAs has a command run as a user.
func runAs(c *exec.Cmd, as *user.User) {
	uid, _ := strconv.Atoi(as.Uid) // numbers: giveAway has read them
	gid, _ := strconv.Atoi(as.Gid)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
