package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// The help of the program and of every command is one screen, with examples.
func TestHelpIsOneScreen(t *testing.T) {
	t.Parallel()
	var check func(n *kong.Node, args ...string)
	commands := 0
	check = func(n *kong.Node, args ...string) {
		commands++
		var stdout, stderr bytes.Buffer
		code := Main(append(args, "--help"), &stdout, &stderr)
		if code != 0 || stderr.Len() > 0 {
			t.Errorf("%q --help: exit code %d, standard error %q", args, code, stderr.String())
		}
		lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
		if len(lines) > 24 {
			t.Errorf("%q --help: %d lines", args, len(lines))
		}
		for _, l := range lines {
			if len(l) > 80 || strings.HasSuffix(l, " ") {
				t.Errorf("%q --help: %d columns: %q", args, len(l), l)
			}
		}
		example := strings.Join(append([]string{"\n  samehost-client"}, args...), " ")
		if !strings.HasPrefix(lines[0], "Usage: samehost-client ") || strings.Count(stdout.String(), example) < 2 {
			t.Errorf("%q --help: no usage, or fewer than two examples:\n%s", args, stdout.String())
		}
		for _, c := range n.Children {
			check(c, append(slices.Clip(args), c.Name)...)
		}
	}
	check(newParser(&cli{}, io.Discard, io.Discard, func(int) {}).Model.Node)
	if commands != 8 {
		t.Errorf("%d commands looked at", commands)
	}
}
