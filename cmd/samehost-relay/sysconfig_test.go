//go:build unix

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What stands in the place of a file that is replaced, a link to another one too, keeps content and mode.
func TestReplaceFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, path := filepath.Join(dir, "secret"), filepath.Join(dir, "site.NDD")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := replaceFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]struct {
			text string
			mode os.FileMode
		}{path: {text, 0o644}, secret: {"secret", 0o600}} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != want.text || info.Mode() != want.mode {
				t.Errorf("%s: %q, %v", file, b, info.Mode())
			}
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("left: %v, %v", names, err)
	}
}
