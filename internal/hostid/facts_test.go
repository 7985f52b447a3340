package hostid

import (
	"testing"

	"pgregory.net/rapid"
)

// evidence is made of one letter for each fact, in order: "" and "-" are unknown.
func evidenceOf(letters string) (e Evidence) {
	for i := range letters {
		if letters[i] != '-' {
			e[i] = letters[i : i+1]
		}
	}
	return e
}

func TestCompare(t *testing.T) {
	t.Parallel()
	// uuid, board, mac, system, chassis, disk, tpm
	for _, c := range []struct {
		why, recorded, present string
		want                   Board
	}{
		{"nothing known", "-------", "-------", Undecided},
		{"nothing known now", "abcdefg", "-------", Undecided},
		{"nothing known then", "-------", "abcdefg", Undecided},
		{"no fact known on both sides", "a-c----", "-b-----", Undecided},
		{"everything the same", "abcdefg", "abcdefg", SameBoard},
		{"everything different", "abcdefg", "tuvwxyz", AnotherBoard},
		{"network interface swapped", "abcdefg", "abXdefg", SameBoard},
		{"UUID reset by a BIOS update", "abcdefg", "Xbcdefg", SameBoard},
		{"UUID shared by a whole model", "abcdefg", "aXYZWVU", AnotherBoard},
		{"one board fact", "a------", "a------", SameBoard},
		{"one board fact, different", "a------", "b------", AnotherBoard},
		{"tie, no serials", "ab-----", "aX-----", Undecided},
		{"tie, system serial the same", "ab-d---", "aX-d---", SameBoard},
		{"tie, system serial different", "ab-d---", "aX-Y---", AnotherBoard},
		{"tie, chassis serial the same", "ab--e--", "aX--e--", SameBoard},
		{"tie, chassis serial different", "ab--e--", "aX--Y--", AnotherBoard},
		{"tie, serials disagree", "ab-de--", "aX-dY--", Undecided},
		{"no board facts, serials the same", "---de--", "---de--", SameBoard},
		{"no board facts, serials different", "---de--", "---XY--", AnotherBoard},
		{"serials do not outvote the board", "abcdefg", "aXYdefg", AnotherBoard},
		{"serials do not outvote the board, other way", "abcdefg", "abXYZfg", SameBoard},
		{"disk and TPM decide nothing", "-----fg", "-----fg", Undecided},
		{"disk and TPM break no tie", "ab---fg", "aX---fg", Undecided},
	} {
		id := NewID()
		recorded, present := evidenceOf(c.recorded).Facts(id), evidenceOf(c.present).Facts(id)
		if got := Compare(recorded, present); got != c.want {
			t.Errorf("%s: %v, want %v", c.why, got, c.want)
		}
		if got := Compare(present, recorded); got != c.want {
			t.Errorf("%s, turned round: %v, want %v", c.why, got, c.want)
		}
	}
}

func TestDiskAndCase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		recorded, present      string
		same, other, otherCase bool
	}{
		{"-----f-", "-----f-", true, false, false},
		{"-----f-", "-----X-", false, true, false},
		{"-----f-", "-------", false, false, false},
		{"-------", "-----f-", false, false, false},
		{"---de--", "---de--", false, false, false},
		{"---de--", "---Xe--", false, false, true},
		{"---de--", "---dX--", false, false, true},
		{"---d---", "----e--", false, false, false},
		{"abc----", "xyz----", false, false, false},
	} {
		id := NewID()
		recorded, present := evidenceOf(c.recorded).Facts(id), evidenceOf(c.present).Facts(id)
		if got := SameDisk(recorded, present); got != c.same {
			t.Errorf("SameDisk(%s, %s) = %v", c.recorded, c.present, got)
		}
		if got := AnotherDisk(recorded, present); got != c.other {
			t.Errorf("AnotherDisk(%s, %s) = %v", c.recorded, c.present, got)
		}
		if got := AnotherCase(recorded, present); got != c.otherCase {
			t.Errorf("AnotherCase(%s, %s) = %v", c.recorded, c.present, got)
		}
	}
}

func TestMergeNeverForgets(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringMatching(`[a-c-]{7}`)
		id := ID{1}
		old, newer := evidenceOf(letters.Draw(t, "old")), evidenceOf(letters.Draw(t, "newer"))
		got := old.Facts(id).Merge(newer.Facts(id))
		for f := range got {
			want := newer[f]
			if want == "" {
				want = old[f]
			}
			if got[f] != DigestOf(id, Fact(f), want) {
				t.Fatalf("%v: old %q, newer %q, merged into neither the newer known nor the old", Fact(f), old[f], newer[f])
			}
		}
	})
}

func TestDigestsDependOnIDFactAndValue(t *testing.T) {
	t.Parallel()
	seen := map[Digest]string{}
	for _, id := range []ID{{1}, {2}} {
		for f := range Fact(NumFacts) {
			for _, v := range []string{"a", "b", "\x00a"} {
				d, what := DigestOf(id, f, v), id.String()+f.String()+v
				if other, ok := seen[d]; ok || d == (Digest{}) {
					t.Errorf("%s and %s share the digest %x", what, other, d)
				}
				seen[d] = what
			}
		}
	}
	if DigestOf(ID{1}, SystemUUID, "") != (Digest{}) {
		t.Error("an unknown value has a digest")
	}
}
