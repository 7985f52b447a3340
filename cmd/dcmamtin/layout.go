package main

import (
	"strings"
	"unicode"
)

// quoted writes an argument as that system's shell wants it: whole, whatever is in it.
func quoted(goos, arg string) string {
	plain := !strings.ContainsFunc(arg, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(`_-+=:,./\@`, r)
	})
	switch {
	case goos == "windows" && plain:
		return arg
	case goos == "windows":
		return `"` + arg + `"` // no path has a quotation mark there
	case plain && arg != "" && !strings.Contains(arg, `\`):
		return arg
	default:
		return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
}
