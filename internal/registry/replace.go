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

// replacement judges one statement, once: what was decided about it holds for every report that repeats it.
func (t *transaction) replacement(v checkin.VerifiedReport, h host, jws string) (old hostid.ID, accepted bool, err error) {
	sum := sha256.Sum256([]byte(jws))
	digest := hex.EncodeToString(sum[:])
	var oldText string
	known, err := t.get(`SELECT old_id, accepted FROM replacements WHERE digest = $1`, []any{digest}, []any{&oldText, &accepted})
	if err != nil {
		return old, false, err
	}
	if known {
		if accepted {
			old, err = hostid.ParseID(oldText)
		}
		return old, accepted, err
	}
	st, proofKey, err := checkin.VerifyReplacement(jws)
	evidence := map[string]any{"host": h.id, "old": idText(st.Old), "new": idText(st.New), "proof_key": fingerprint(proofKey), "statement": jws, "report": v.Digest}
	reason := ""
	if err != nil {
		reason, evidence["error"] = "signature", err.Error()
	} else if reason, err = t.judge(v, h, st, proofKey, evidence); err != nil {
		return old, false, err
	}
	accepted = reason == ""
	_, err = t.exec(`INSERT INTO replacements (digest, received, old_id, accepted) VALUES ($1, $2, $3, $4)`,
		digest, millis(t.now), idText(st.Old), accepted)
	if err != nil || accepted {
		return st.Old, accepted, err
	}
	evidence["reason"] = reason
	return old, false, t.openConflict(conflict{
		kind: "replacement", subject: digest, asset: h.asset, host: h.id, evidence: evidence,
	})
}

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
	if _, err := t.exec(`DELETE FROM board_facts WHERE asset_id = $1`, from); err != nil {
		return nil, err
	}
	if err := t.closeConflict("same-board", pairSubject(from, into)); err != nil {
		return nil, err
	}
	_, err = t.exec(`UPDATE conflicts SET asset_id = $1 WHERE asset_id = $2 AND closed IS NULL`, into, from)
	return moved, err
}
