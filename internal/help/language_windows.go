package help

import "golang.org/x/sys/windows"

// systemLanguage is the first language that the user chose for Windows, as ja-JP.
func systemLanguage() string {
	names, err := windows.GetUserPreferredUILanguages(windows.MUI_LANGUAGE_NAME)
	if err != nil || len(names) == 0 {
		return ""
	}
	return names[0]
}
