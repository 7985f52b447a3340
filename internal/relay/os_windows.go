package relay

// syncFolder has nothing to do: NTFS journals the names of files before their first flush returns.
func syncFolder(string) error { return nil }
