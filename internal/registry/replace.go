package registry

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// waits reports whether the report's epoch is one that waits for another epoch of the same host ID to be silent.
func (t *transaction) waits(v checkin.VerifiedReport, h host) (bool, error) {
	if h.keeper == 0 {
		return false, nil
	}
	keeper, err := t.branch(h.keeper)
	if err != nil {
		return false, err
	}
	return keeper.token != v.Report.Epoch && t.reg.live(keeper.lastReceived, t.now), nil
}

// outcome is what became of a statement.
type outcome int

const (
	statementFails   outcome = iota // it does not hold, whoever sends it
	statementHolds                  // it is carried out, now or before
	statementForeign                // it speaks for a host that is not the sender's: nothing is decided about it
)

func statementDigest(jws string) string {
	sum := sha256.Sum256([]byte(jws))
	return hex.EncodeToString(sum[:])
}

// replacement judges one statement, once: what was decided about it holds for every report that repeats it. That
// somebody else sent it decides nothing, or a stranger who saw it could spoil it for its owner.
func (t *transaction) replacement(v checkin.VerifiedReport, jws string, line int64) (old hostid.ID, o outcome, err error) {
	digest := statementDigest(jws)
	var oldText string
	var accepted bool
	known, err := t.get(`SELECT old_id, accepted FROM replacements WHERE digest = $1`, []any{digest}, []any{&oldText, &accepted})
	if err != nil {
		return old, statementFails, err
	}
	if known {
		if !accepted && oldText != "" { // an operator has decided about it: then the client need not carry it any more
			if accepted, err = t.keptApart("replacement", digest, nil); err != nil {
				return old, statementFails, err
			}
		}
		if accepted {
			o = statementHolds
			old, err = hostid.ParseID(oldText)
		}
		return old, o, err
	}
	h, _, err := t.host(v.Report.HostID) // an earlier statement may have moved it
	if err != nil {
		return old, statementFails, err
	}
	st, proofKey, err := checkin.VerifyReplacement(jws)
	evidence := map[string]any{"host": h.id, "old": idText(st.Old), "new": idText(st.New), "proof_key": fingerprint(proofKey), "statement": jws, "report": v.Digest}
	reason := ""
	if err != nil {
		reason, evidence["error"] = "signature", err.Error()
	} else if reason, err = t.judge(v, h, st, proofKey, evidence); err != nil {
		return old, statementFails, err
	}
	if reason == "sender" {
		return old, statementForeign, nil
	}
	accepted = reason == ""
	_, err = t.exec(`INSERT INTO replacements (digest, received, old_id, accepted) VALUES ($1, $2, $3, $4)`,
		digest, millis(t.now), idText(st.Old), accepted)
	if err != nil {
		return old, statementFails, err
	}
	if accepted {
		return st.Old, statementHolds, nil
	}
	evidence["reason"] = reason
	return old, statementFails, t.replacementConflict(v, h, st, line, digest, evidence)
}

// replacementConflict opens the conflict about a statement that does not hold.
func (t *transaction) replacementConflict(v checkin.VerifiedReport, h host, st checkin.Replacement, line int64, subject string, evidence map[string]any) error {
	c := conflict{kind: "replacement", subject: subject, asset: h.asset, host: h.id, lines: []int64{line}, evidence: evidence}
	other, known, err := t.host(st.Old)
	if err != nil {
		return err
	}
	if known && other.id != h.id {
		c.otherHost, c.other = other.id, other.asset
		evidence["known"], evidence["reported"] = other.facts, v.Report.Facts
	}
	_, err = t.openConflict(c)
	return err
}

// foreignStatement opens a conflict about a statement that speaks for somebody else than its sender, unless an operator
// has decided about it.
func (t *transaction) foreignStatement(v checkin.VerifiedReport, h host, jws string, line int64) (old hostid.ID, decided bool, err error) {
	st, proofKey, err := checkin.VerifyReplacement(jws)
	if err != nil {
		return old, false, err
	}
	subject := statementDigest(jws) + " by " + h.id.String()
	decided, err = t.keptApart("replacement", subject, nil)
	if err != nil || decided {
		return st.Old, decided, err
	}
	return old, false, t.replacementConflict(v, h, st, line, subject, map[string]any{"host": h.id, "old": idText(st.Old), "new": idText(st.New),
		"proof_key": fingerprint(proofKey), "statement": jws, "report": v.Digest, "reason": "sender"})
}

// maxAliases bounds how many host IDs that never enrolled one asset may say that it replaced: a PC replaces one at
// a time, and each takes a failed restore.
const maxAliases = 64

// maxProven bounds how many host IDs one asset may come to by statements. Each report of any of them looks at all, and each further statement
// moves them all: whoever has a token could make a report that takes the database for as long as he likes.
const maxProven = 128

// judge carries a statement out, or says in a word why not.
func (t *transaction) judge(v checkin.VerifiedReport, h host, st checkin.Replacement, proofKey ed25519.PublicKey, evidence map[string]any) (reason string, err error) {
	if st.Audience != t.reg.audience {
		return "audience", nil
	}
	newHost, newKnown, err := t.host(st.New)
	if err != nil {
		return "", err
	}
	// Whoever holds one key could otherwise join the asset of anybody whose public key it knows to its own. A client that
	// was ordered to take a new ID still carries the statements of the ID that it had, and of nobody else.
	if st.New != h.id && (!newKnown || newHost.asset != h.asset) {
		ordered, err := t.orderedAway(h.id, st.New)
		if err != nil {
			return "", err
		}
		if !ordered {
			return "sender", nil
		}
		evidence["ordered_from"] = st.New
	}
	if !newKnown || !bytes.Equal(newHost.key, st.NewKey) {
		return "new-key", nil
	}
	oldHost, oldKnown, err := t.host(st.Old)
	if err != nil {
		return "", err
	}
	switch {
	case oldKnown && oldHost.key == nil:
		// Two statements about an ID that never enrolled: the first one holds.
		if !oldHost.proofKey.Equal(proofKey) {
			return "key", nil
		}
	case !oldKnown:
		// The old ID never came here. Its proof binds nothing: the ID can still enrol, and that decides.
		var aliases int
		if _, err := t.get(`SELECT COUNT(*) FROM hosts WHERE asset_id = $1 AND key IS NULL`, []any{newHost.asset}, []any{&aliases}); err != nil {
			return "", err
		}
		if aliases >= maxAliases {
			return "too-many", nil
		}
		home, err := t.newAsset()
		if err != nil {
			return "", err
		}
		_, err = t.exec(`INSERT INTO hosts (host_id, asset_id, home, proof_key, replaced_by) VALUES ($1, $2, $2, $3, $4)`,
			st.Old.String(), home, []byte(proofKey), st.New.String())
		if err == nil {
			_, err = t.group(home, newHost.asset, byProof)
		}
		if err != nil {
			return "", err
		}
		return "", t.record(st.New, "replaced-unknown", evidence)
	case !oldHost.key.Equal(proofKey):
		evidence["bound_key"] = fingerprint(oldHost.key)
		return "key", nil
	}
	if oldHost.asset != newHost.asset {
		apart, err := t.keptApart("hosts", hostPair(st.Old, st.New), nil)
		if err != nil || apart {
			return "", err // an operator said that they are two
		}
		// The old ID's memory sits on the board: who overwrote it has that board. Of a host that was ordered away from the new
		// ID it is not known whose statement it carries, its own or that of the PC it was copied from.
		there := facts(v.Report.Facts)
		if st.New != h.id && newHost.asset != h.asset && t.compare(oldHost.facts, there) != hostid.SameBoard {
			there = newHost.facts
		} else if st.New != h.id && newHost.asset != h.asset {
			newHost = h
		}
		if t.compare(oldHost.facts, there) == hostid.AnotherBoard {
			evidence["known"], evidence["reported"] = oldHost.facts, there
			return "board", nil
		}
		var both int
		if _, err := t.get(`SELECT COUNT(*) FROM hosts WHERE asset_id IN ($1, $2)`, []any{newHost.asset, oldHost.asset}, []any{&both}); err != nil {
			return "", err
		}
		if both > maxProven {
			return "too-many", nil
		}
		moved, err := t.hostsOf(newHost.asset)
		if err != nil {
			return "", err
		}
		evidence["from_asset"], evidence["to_asset"], evidence["moved"] = newHost.asset, oldHost.asset, moved
		seat, err := t.seat(oldHost)
		if err != nil {
			return "", err
		}
		if evidence["grouping"], err = t.group(newHost.asset, seat, byProof); err != nil {
			return "", err
		}
		if err := t.takenFor(st.New, st.Old, true); err != nil {
			return "", err
		}
	}
	if _, err := t.exec(`UPDATE hosts SET replaced_by = $1 WHERE host_id = $2`, st.New.String(), st.Old.String()); err != nil {
		return "", err
	}
	return "", t.record(st.New, "replaced", evidence)
}
