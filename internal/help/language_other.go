//go:build !windows

package help

func systemLanguage() string { return "" }
