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
func (t *transaction) waits(v checkin.VerifiedReport, a asset) (bool, error) {
	if a.keeper == 0 {
		return false, nil
	}
	keeper, err := t.branch(a.keeper)
	if err != nil {
		return false, err
	}
	return keeper.host == v.Report.HostID && keeper.token != v.Report.Epoch && t.reg.live(keeper.lastReceived, t.now), nil
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
func (t *transaction) replacement(v checkin.VerifiedReport, jws string) (old hostid.ID, o outcome, err error) {
	digest := statementDigest(jws)
	var oldText string
	var accepted bool
	known, err := t.get(`SELECT old_id, accepted FROM replacements WHERE digest = $1`, []any{digest}, []any{&oldText, &accepted})
	if err != nil {
		return old, statementFails, err
	}
	if known {
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
	return old, statementFails, t.openConflict(conflict{
		kind: "replacement", subject: digest, asset: h.asset, host: h.id, evidence: evidence,
	})
}

// foreignStatement opens a conflict about a statement that speaks for somebody else than its sender.
func (t *transaction) foreignStatement(v checkin.VerifiedReport, h host, jws string) error {
	st, proofKey, err := checkin.VerifyReplacement(jws)
	if err != nil {
		return err
	}
	return t.openConflict(conflict{
		kind: "replacement", subject: statementDigest(jws) + " by " + h.id.String(), asset: h.asset, host: h.id,
		evidence: map[string]any{"host": h.id, "old": idText(st.Old), "new": idText(st.New), "proof_key": fingerprint(proofKey),
			"statement": jws, "report": v.Digest, "reason": "sender"},
	})
}

// maxAliases bounds how many host IDs that never enrolled one asset may say that it replaced: a PC replaces one at
// a time, and each takes a failed restore.
const maxAliases = 64

// judge carries a statement out, or says in a word why not.
func (t *transaction) judge(v checkin.VerifiedReport, h host, st checkin.Replacement, proofKey ed25519.PublicKey, evidence map[string]any) (reason string, err error) {
	if st.Audience != t.reg.audience {
		return "audience", nil
	}
	// A client that was ordered to take a new ID still carries the statements of the ID it had.
	newHost, newKnown, err := t.host(st.New)
	if err != nil {
		return "", err
	}
	// Whoever holds one key could otherwise join the asset of anybody whose public key it knows to its own.
	if st.New != h.id && (!newKnown || newHost.asset != h.asset) {
		return "sender", nil
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
		_, err := t.exec(`INSERT INTO hosts (host_id, asset_id, proof_key, replaced_by) VALUES ($1, $2, $3, $4)`,
			st.Old.String(), newHost.asset, []byte(proofKey), st.New.String())
		if err != nil {
			return "", err
		}
		return "", t.record(st.New, "replaced-unknown", evidence)
	case !oldHost.key.Equal(proofKey):
		evidence["bound_key"] = fingerprint(oldHost.key)
		return "key", nil
	}
	if oldHost.asset != newHost.asset {
		a, err := t.asset(oldHost.asset)
		if err != nil {
			return "", err
		}
		// The old ID's memory sits on the board: who overwrote it has that board.
		if a.board(v.Report.Facts) == hostid.AnotherBoard {
			evidence["known"], evidence["reported"] = a.facts, v.Report.Facts
			return "board", nil
		}
		moved, err := t.merge(newHost.asset, oldHost.asset)
		if err != nil {
			return "", err
		}
		evidence["from_asset"], evidence["to_asset"], evidence["moved"] = newHost.asset, oldHost.asset, moved
	}
	if _, err := t.exec(`UPDATE hosts SET replaced_by = $1 WHERE host_id = $2`, st.New.String(), st.Old.String()); err != nil {
		return "", err
	}
	return "", t.record(st.New, "replaced", evidence)
}

// merge moves the hosts of one asset into another and returns them. Facts and history hang on the host IDs, so
// that moving them back undoes it.
func (t *transaction) merge(from, into int64) (moved []string, err error) {
	moved, err = collect(t, func(scan func(...any) error) (id string, err error) { return id, scan(&id) },
		`UPDATE hosts SET asset_id = $1 WHERE asset_id = $2 RETURNING host_id`, into, from)
	if err != nil {
		return nil, err
	}
	if _, err := t.exec(`UPDATE assets SET merged_into = $1 WHERE id = $2`, into, from); err != nil {
		return nil, err
	}
	for _, q := range []string{`DELETE FROM board_facts WHERE asset_id = $1`, `DELETE FROM asset_names WHERE asset_id = $1`} {
		if _, err := t.exec(q, from); err != nil {
			return nil, err
		}
	}
	for _, q := range []string{
		`UPDATE conflicts SET asset_id = $1 WHERE asset_id = $2 AND closed IS NULL`,
		`UPDATE conflicts SET other_asset = $1 WHERE other_asset = $2 AND closed IS NULL`,
	} {
		if _, err := t.exec(q, into, from); err != nil {
			return nil, err
		}
	}
	a, err := t.asset(into)
	if err == nil {
		err = t.rematchAsset(into, a.uuid()) // what could not be told between the two
	}
	if err != nil {
		return nil, err
	}
	return moved, t.settleSameBoard(into)
}
