//go:build !linux

package pgtest

import (
	"os"
	"os/exec"
	"testing"
)

type owner struct{}

func giveAway(testing.TB, string) owner { return owner{} }

func run(*exec.Cmd, owner) {}

func quit(p *os.Process) { p.Kill() } // fails if it has ended
