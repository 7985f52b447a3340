package registry

import (
	"crypto/ed25519"
	"database/sql"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// admit says whose report it is. proven means that the report is signed by the key that its host ID is bound to;
// then nothing else is asked for, least of all a token: a token never outweighs a key. A host ID that nobody has
// enrolled is enrolled by a valid token, and bound to the key. A host ID bound to another key is neither, but its
// report is taken if the sender once showed a valid token: a stranger cannot open conflicts.
func (t *transaction) admit(v checkin.VerifiedReport) (h host, proven bool, err error) {
	id := v.Report.HostID
	h, known, err := t.host(id)
	if err != nil {
		return h, false, err
	}
	if known && h.key.Equal(v.Key) {
		return h, true, nil
	}
	if known && h.key != nil {
		heard, err := t.get(`SELECT 1 FROM epochs WHERE host_id = $1 AND key = $2 LIMIT 1`, []any{id.String(), []byte(v.Key)}, []any{new(int)})
		if err != nil || heard {
			return h, false, err
		}
		return h, false, t.useToken(v, false)
	}
	if err := t.useToken(v, true); err != nil {
		return h, false, err
	}
	h, err = t.enrol(v, h, known)
	return h, true, err
}

// enrol binds a host ID to its key. named: a replacement named the ID before; then the key of that proof decides
// whether it really is the PC that the asset was told of.
func (t *transaction) enrol(v checkin.VerifiedReport, h host, named bool) (host, error) {
	evidence := map[string]any{
		"name": v.Report.Names.Host, "token": v.Enrol.TokenID, "key": checkin.FingerprintOf(v.Key),
		"origin": v.Report.Origin, "epoch": v.Report.Epoch, "report": v.Digest, "facts": v.Report.Facts, "copy_of": idText(v.Report.CopyOf),
	}
	var claimant string // who said, by another key, to have replaced this ID
	if !named {
		var err error
		if h.home, err = t.newAsset(); err != nil {
			return h, err
		}
		h.asset = h.home
	} else if !h.proofKey.Equal(v.Key) {
		if _, err := t.get(`SELECT COALESCE(replaced_by, '') FROM hosts WHERE host_id = $1`, []any{h.id.String()}, []any{&claimant}); err != nil {
			return h, err
		}
		path, err := t.groupingOf(h.home)
		if err == nil {
			err = t.ungroup(path)
		}
		if err != nil {
			return h, err
		}
		h.asset = h.home
	}
	h.key = v.Key
	copyOf := sql.NullString{String: v.Report.CopyOf.String(), Valid: !v.Report.CopyOf.IsZero()}
	_, err := t.exec(`INSERT INTO hosts (host_id, asset_id, home, key, token_id, enrolled, copy_of) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (host_id) DO UPDATE SET key = excluded.key, token_id = excluded.token_id,
		enrolled = excluded.enrolled, copy_of = excluded.copy_of`,
		h.id.String(), h.asset, h.home, []byte(v.Key), v.Enrol.TokenID, millis(t.now), copyOf)
	if err != nil {
		return h, err
	}
	kind := "enrolled"
	if !v.Report.CopyOf.IsZero() {
		kind = "enrolled-copy"
	}
	if err := t.record(h.id, kind, evidence); err != nil {
		return h, err
	}
	h.enrolled = millis(t.now)
	if claimant == "" {
		return h, nil
	}
	// Somebody claimed, by another key, to have replaced this ID. Enrolment is what binds, so the claim falls.
	if _, err := t.exec(`UPDATE hosts SET replaced_by = NULL WHERE host_id = $1`, h.id.String()); err != nil {
		return h, err
	}
	id, err := hostid.ParseID(claimant)
	if err != nil {
		return h, err
	}
	by, _, err := t.host(id)
	if err != nil {
		return h, err
	}
	var lines []int64
	if by.keeper != 0 {
		lines = []int64{by.keeper}
	}
	_, err = t.openConflict(conflict{
		kind: "replacement", subject: "enrolled " + h.id.String(), asset: by.asset, host: by.id, other: h.asset, otherHost: h.id, lines: lines,
		evidence: map[string]any{"old": h.id, "reason": "key", "proof_key": fingerprint(h.proofKey), "bound_key": fingerprint(h.key)},
	})
	return h, err
}

// useToken checks the enrolment part against the token it names, and counts the use. A token that goes with an order
// serves for a host ID that nobody has.
func (t *transaction) useToken(v checkin.VerifiedReport, unknown bool) error {
	if v.Enrol == nil {
		return &checkin.Refusal{Code: checkin.NeedsEnrolment,
			Detail: "this manager does not know the host ID " + v.Report.HostID.String() + " under this key"}
	}
	tok, known, err := t.token(v.Enrol.TokenID)
	if err != nil {
		return err
	}
	var verifier [32]byte
	copy(verifier[:], tok.verifier)
	why := ""
	switch {
	case !known:
		why = "is not known here"
	case !v.Enrol.Check(verifier, v.Payload):
		why = "does not fit its proof: the token was altered or cut"
	case !tok.Revoked.IsZero():
		why = "was revoked"
	case !tok.Expires.IsZero() && !t.now.Before(tok.Expires):
		why = "has expired"
	case tok.orderID != "" && !unknown:
		why = "goes with an order to take a new host ID, and this one is another PC's"
	case tok.orderID != "":
		if why, err = t.orderToken(v, tok); err != nil {
			return err
		}
	}
	if why != "" {
		return &checkin.Refusal{Code: checkin.BadToken,
			Detail: "the enrolment token " + v.Enrol.TokenID + " " + why}
	}
	if _, err := t.exec(`UPDATE tokens SET uses = uses + 1 WHERE id = $1`, tok.ID); err != nil {
		return err
	}
	return t.record(v.Report.HostID, "token-used", map[string]any{"token": tok.ID, "key": checkin.FingerprintOf(v.Key)})
}

// fingerprint is the key's fingerprint, "" for none.
func fingerprint(key ed25519.PublicKey) checkin.Fingerprint {
	if len(key) == 0 {
		return ""
	}
	return checkin.FingerprintOf(key)
}

// replacements judges the statements that this host, or one that it was before, took the place of other host IDs.
// What holds makes the old ID an alias: both belong to one asset, the old ID's. It returns the old IDs that were
// taken note of, now or before.
func (t *transaction) replacements(v checkin.VerifiedReport, h host, line int64) (named []hostid.ID, err error) {
	if len(v.Report.Replaced) == 0 {
		return nil, nil
	}
	waits, err := t.waits(v, h)
	if err != nil || waits {
		return nil, err // a reinstalled PC whose old epoch was just heard: the statements stay in its reports
	}
	// One statement may make another the sender's, in whatever order they stand: A by B, and B by the sender.
	rest, foreign := v.Report.Replaced, []string(nil)
	for progress := true; progress; rest, foreign = foreign, nil {
		progress = false
		for _, jws := range rest {
			old, outcome, err := t.replacement(v, jws, line)
			if err != nil {
				return nil, err
			}
			switch outcome {
			case statementHolds:
				named, progress = append(named, old), true
			case statementForeign:
				foreign = append(foreign, jws)
			}
		}
	}
	for _, jws := range rest {
		old, decided, err := t.foreignStatement(v, h, jws, line)
		if err != nil {
			return nil, err
		}
		if decided {
			named = append(named, old)
		}
	}
	return named, nil
}
