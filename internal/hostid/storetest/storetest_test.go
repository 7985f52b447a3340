package storetest_test

import (
	"bytes"
	"testing"

	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) storetest.Fixture {
		m := &storetest.Memory{}
		return storetest.Fixture{
			Reopen: func(*testing.T) hostid.Store { m.Restart(); return m },
			Copies: len(m.Blocks),
			Read:   func(_ *testing.T, i int) []byte { return m.Blocks[i] },
			Write:  func(_ *testing.T, i int, b []byte) { m.Blocks[i] = bytes.Clone(b) },
			Writes: func() int { return m.Writes },
			Cut:    m.Cut,
		}
	})
}
