package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// Token is what the registry knows of an enrolment token: everything but its secret.
type Token struct {
	ID      string    `json:"id"`
	Note    string    `json:"note,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	Revoked time.Time `json:"revoked,omitzero"`
	Uses    int64     `json:"uses"`

	Relay      bool     `json:"relay,omitzero"`        // it admits one relay
	RelayNames []string `json:"relay_names,omitempty"` // what that one's certificate may be for; none: what it calls itself

	verifier []byte
	orderID  string // the order that it goes with; "": made by an administrator
}

// State is "valid", "expired" or "revoked" at that time.
func (t Token) State(now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "revoked"
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return "expired"
	default:
		return "valid"
	}
}

// CreateToken makes an enrolment token. It is shown once: only what is needed to check it is kept. expires zero:
// never; note is for people; who makes it is told in the history, "" for the manager itself.
func (r *Registry) CreateToken(ctx context.Context, expires time.Time, note, who string) (checkin.EnrolmentToken, error) {
	return r.createToken(ctx, expires, note, who, false, nil)
}

func (r *Registry) createToken(ctx context.Context, expires time.Time, note, who string, relay bool, names []string) (checkin.EnrolmentToken, error) {
	if r.key == nil {
		return checkin.EnrolmentToken{}, errors.New("the registry was opened without the manager's key")
	}
	tok := checkin.NewEnrolmentToken(r.audience)
	verifier := tok.Verifier()
	err := r.write(ctx, func(t *transaction) error {
		_, err := t.exec(`INSERT INTO tokens (id, verifier, note, created, expires, relay, relay_names) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			tok.ID, verifier[:], note, millis(t.now), nullTime(expires), relay, toJSON(append([]string{}, names...)))
		if err != nil {
			return err
		}
		return t.record(hostid.ID{}, byWhom("token-created", who), map[string]any{"token": tok.ID, "note": note, "who": who})
	})
	return tok, err
}

// RevokeToken ends a token: it enrols nobody any more. Hosts that it enrolled stay. Revoking twice is no error;
// an ID that is no token's is ErrUnknown. who revokes it is told in the history.
func (r *Registry) RevokeToken(ctx context.Context, id, who string) error {
	return r.write(ctx, func(t *transaction) error {
		n, err := t.exec(`UPDATE tokens SET revoked = $1 WHERE id = $2 AND revoked IS NULL AND order_id = ''`, millis(t.now), id)
		if err != nil {
			return err
		}
		if n == 0 {
			_, known, err := t.token(id)
			if err == nil && !known {
				err = fmt.Errorf("token %q: %w", id, ErrUnknown)
			}
			return err
		}
		return t.record(hostid.ID{}, byWhom("token-revoked", who), map[string]any{"token": id, "who": who})
	})
}

// byWhom is the kind of an event that somebody or nobody in particular made.
func byWhom(kind, who string) string {
	if who == "" {
		return kind
	}
	return kind + "-by"
}

const tokenColumns = `SELECT id, verifier, note, created, expires, revoked, uses, order_id, relay, relay_names FROM tokens `

func scanToken(scan func(...any) error) (t Token, err error) {
	var created int64
	var expires, revoked sql.NullInt64
	var names string
	if err = scan(&t.ID, &t.verifier, &t.Note, &created, &expires, &revoked, &t.Uses, &t.orderID, &t.Relay, &names); err == nil {
		err = json.Unmarshal([]byte(names), &t.RelayNames)
	}
	t.Created, t.Expires, t.Revoked = fromMillis(created), fromNullTime(expires), fromNullTime(revoked)
	return t, err
}

func (t *transaction) token(id string) (tok Token, known bool, err error) {
	tok, err = scanToken(t.QueryRowContext(t.ctx, tokenColumns+`WHERE id = $1`, id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return tok, false, nil
	}
	return tok, err == nil, err
}

// Tokens returns every token that an administrator made, the oldest first.
func (r *Registry) Tokens(ctx context.Context) ([]Token, error) {
	return scanAll(ctx, r.readers, scanToken, tokenColumns+`WHERE order_id = '' ORDER BY created, id`)
}
