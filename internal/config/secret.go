package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// SecretSource says where a command takes a secret from that must not stand on its command line: a file, an environment
// variable, else standard input, where a person types it unseen.
type SecretSource struct {
	What string // for prompts and errors: "password"
	File string // "": not from a file
	Env  string // "": not from the environment
	// Again has a person type it twice: nobody sees what he typed.
	Again  bool
	Prompt io.Writer // where a person is asked
}

// Read is the secret: one line of printable characters, at most 1024 bytes. Errors never quote it.
func (s SecretSource) Read() (Secret, error) {
	var in io.Reader = os.Stdin
	from := "standard input"
	switch fd := int(os.Stdin.Fd()); {
	case s.File != "" && s.Env != "":
		return Secret{}, fmt.Errorf("%s: a file and an environment variable are named; leave one out", s.What)
	case s.File != "":
		f, err := os.Open(s.File)
		if err != nil {
			return Secret{}, fmt.Errorf("%s: %w; check the path, and that you may read it", s.What, err)
		}
		defer f.Close()
		in, from = f, s.File
	case s.Env != "":
		in, from = strings.NewReader(os.Getenv(s.Env)), "environment variable "+s.Env
	case term.IsTerminal(fd):
		return s.ask(fd)
	}
	b, err := io.ReadAll(io.LimitReader(in, maxPassword+8)) // Notepad's mark and a line end come on top
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %s: %w", s.What, from, Bare(err))
	}
	text := strings.TrimPrefix(string(b), "\ufeff")
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if err := judgePassword(text); err != nil {
		return Secret{}, fmt.Errorf("%s: %s: %w", s.What, from, err)
	}
	return NewSecret(text), nil
}

func (s SecretSource) ask(fd int) (Secret, error) {
	prompts := []string{strings.ToUpper(s.What[:1]) + s.What[1:] + ": ", "Once more: "}
	var typed []string
	for _, prompt := range prompts {
		fmt.Fprint(s.Prompt, prompt)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(s.Prompt)
		if err != nil {
			return Secret{}, fmt.Errorf("%s: %w", s.What, err)
		}
		if err := judgePassword(string(b)); err != nil {
			return Secret{}, fmt.Errorf("%s: %w", s.What, err)
		}
		if typed = append(typed, string(b)); !s.Again {
			break
		}
	}
	if typed[0] != typed[len(typed)-1] {
		return Secret{}, errors.New(s.What + ": the two are not the same; nothing was done")
	}
	return NewSecret(typed[0]), nil
}
