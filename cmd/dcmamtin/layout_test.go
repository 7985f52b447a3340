package main

import "testing"

func TestQuoted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ goos, arg, want string }{
		{"linux", "/var/lib/samehost/NETM.NDD", "/var/lib/samehost/NETM.NDD"},
		{"linux", "/tmp/a b", "'/tmp/a b'"},
		{"linux", "/tmp/it's $HOME", `'/tmp/it'\''s $HOME'`},
		{"linux", `a\b`, `'a\b'`},
		{"linux", "/tmp/構成.NDD", "/tmp/構成.NDD"},
		{"windows", `D:\NETM.NDD`, `D:\NETM.NDD`},
		{"windows", `D:\Program Files\Hitachi\NETMDM\DMPRM\NETM.NDD`, `"D:\Program Files\Hitachi\NETMDM\DMPRM\NETM.NDD"`},
	} {
		if got := quoted(test.goos, test.arg); got != test.want {
			t.Errorf("quoted(%s, %s) = %s, want %s", test.goos, test.arg, got, test.want)
		}
	}
}
