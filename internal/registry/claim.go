package registry

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"samehost/internal/checkin"
)

// ErrOtherManager says that a database is another manager's than the key: no client would believe its replies.
var ErrOtherManager = errors.New("it is another manager's")

// claim takes a key to sign with, which must be that of the manager whose database it is. One without a manager is this one's from
// now on, unless a reply in it is signed by another key.
func (r *Registry) claim(ctx context.Context, key ed25519.PrivateKey) error {
	r.key, r.audience = key, checkin.FingerprintOf(key.Public().(ed25519.PublicKey))
	owner, err := ownerOf(ctx, r.readers)
	if err == nil && owner == "" {
		err = r.write(ctx, func(t *transaction) error {
			if owner, err = ownerOf(t.ctx, t.Tx); err != nil || owner != "" {
				return err
			}
			if owner, err = t.signer(); err != nil || owner != r.audience {
				return err
			}
			_, err := t.exec(`INSERT INTO manager (fingerprint) VALUES ($1)`, string(owner))
			return err
		})
	}
	if err == nil && owner != r.audience {
		err = fmt.Errorf("%w (%s), and not of the key in this data folder (%s): name the folder that belongs to it with --config, or put back its manager-key.pem from a backup",
			ErrOtherManager, owner, r.audience)
	}
	return err
}

// ownerOf is the fingerprint of the key of the manager whose database this is; "": it is not known yet.
func ownerOf(ctx context.Context, q queryer) (checkin.Fingerprint, error) {
	all, err := scanAll(ctx, q, scanText, `SELECT fingerprint FROM manager`)
	if err != nil || len(all) == 0 {
		return "", err
	}
	return checkin.Fingerprint(all[0]), nil
}

// signer is the registry's own key where it signed the replies that are kept, or where there are none.
func (t *transaction) signer() (checkin.Fingerprint, error) {
	var digest, reply string
	known, err := t.get(`SELECT digest, reply FROM reports WHERE reply <> '' ORDER BY received DESC LIMIT 1`, nil, []any{&digest, &reply})
	if err != nil || !known {
		return t.reg.audience, err
	}
	var d checkin.Digest
	if _, err := hex.Decode(d[:], []byte(digest)); err != nil {
		return "", fmt.Errorf("report %q: %w", digest, err)
	}
	if _, err := checkin.VerifyReply(reply, t.reg.audience, d); err != nil {
		return "unknown", nil
	}
	return t.reg.audience, nil
}
