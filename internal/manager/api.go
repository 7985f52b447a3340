package manager

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"samehost/internal/amtinit"
	"samehost/internal/hostid"
	"samehost/internal/registry"
)

const (
	apiPath  = "/api/"
	specPath = "/openapi.json"
	// maxBody is many times what the largest request of the API takes.
	maxBody = 16 << 10
)

// api serves /api/v1 and the document that describes it. docs/protocol/api.md states what holds for all of it.
type api struct {
	reg    *registry.Registry
	log    *slog.Logger
	amt    func() (amtinit.Options, error) // Options.AMT
	folder string                          // Options.DataDir
	logons *logons
	mux    *http.ServeMux
	spec   []byte
}

type administratorKey struct{}

// who is the administrator that a request is from.
func who(ctx context.Context) string {
	name, _ := ctx.Value(administratorKey{}).(string)
	return name
}

func newAPI(reg *registry.Registry, o Options) *api {
	a := &api{reg: reg, log: o.Log, amt: o.AMT, folder: o.DataDir, logons: newLogons(reg, o.Log), mux: http.NewServeMux()}
	json := huma.Format{Marshal: marshalJSON, Unmarshal: huma.DefaultJSONFormat.Unmarshal}
	h := humago.New(a.mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "samehost-manager", Version: "1", Description: "Assets, what was decided about their identity, and what has to be."},
			Components: &huma.Components{
				Schemas:         huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{"administrator": {Type: "http", Scheme: "basic"}},
			},
			Security: []map[string][]string{{"administrator": {}}},
		},
		Formats:                      map[string]huma.Format{"application/json": json, "json": json},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{withoutValues},
	})
	a.register(h)
	taken := requests(h.OpenAPI())
	for name, schema := range h.OpenAPI().Components.Schemas.Map() {
		if !taken[name] {
			schema.AdditionalProperties = true // later versions may answer with more
		}
	}
	spec, err := h.OpenAPI().MarshalJSON()
	if err != nil {
		panic("manager: " + err.Error()) // the types do not describe an API
	}
	a.spec = spec
	return a
}

// requests are the names of the bodies that are sent here: nothing in them may be unknown.
func requests(spec *huma.OpenAPI) map[string]bool {
	names := map[string]bool{}
	for _, path := range spec.Paths {
		for _, op := range []*huma.Operation{path.Get, path.Put, path.Post, path.Delete} {
			if op == nil || op.RequestBody == nil {
				continue
			}
			for _, m := range op.RequestBody.Content {
				names[m.Schema.Ref[strings.LastIndexByte(m.Schema.Ref, '/')+1:]] = true
			}
		}
	}
	return names
}

// withoutValues takes what was sent out of the errors about it: it may be a password.
func withoutValues(_ huma.Context, _ string, v any) (any, error) {
	if e, ok := v.(*huma.ErrorModel); ok {
		for _, d := range e.Errors {
			d.Value = nil
		}
	}
	return v, nil
}

// schemaName names a type in the document. An asset holds conflicts without sentences, which go by another name.
func schemaName(t reflect.Type, hint string) string {
	if t == reflect.TypeFor[registry.Conflict]() {
		return "OpenConflict"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// marshalJSON writes < and > as escapes too: names that PCs made up are in there.
func marshalJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func (a *api) serveSpec(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write(a.spec)
}

// ServeHTTP lets through what an administrator sends, and no browser on behalf of another site. Every error is a problem
// (RFC 9457).
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if foreign(r) {
		problem(w, http.StatusForbidden, "requests of other web sites are refused")
		return
	}
	name, refused, err := a.logons.check(r.Context(), r)
	switch {
	case err != nil && r.Context().Err() != nil:
		return // nobody waits for an answer any more
	case err != nil:
		a.log.Error("log-on could not be checked", "error", WithRemedy(err))
		problem(w, http.StatusInternalServerError, "the log-on could not be checked; the manager's log tells why")
		return
	case refused != nil:
		if refused.status == http.StatusUnauthorized {
			h.Set("WWW-Authenticate", `Basic realm="samehost-manager", charset="UTF-8"`)
		}
		if refused.after > 0 {
			h.Set("Retry-After", seconds(refused.after))
		}
		problem(w, refused.status, refused.detail)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), administratorKey{}, name))
	if route, pattern := a.mux.Handler(r); pattern == "" {
		told := &statusOnly{header: http.Header{}, status: http.StatusNotFound}
		route.ServeHTTP(told, r)
		if allow := told.header.Get("Allow"); allow != "" {
			h.Set("Allow", allow)
			problem(w, http.StatusMethodNotAllowed, "this takes "+allow)
			return
		}
		problem(w, http.StatusNotFound, "there is no such resource; "+specPath+" tells those there are")
		return
	}
	a.mux.ServeHTTP(w, r)
}

// foreign reports whether a browser sent the request for a page of another origin (Fetch Metadata; RFC 6454 for browsers that
// lack it). A browser may know the password, and would send it.
func foreign(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site != "same-origin" && site != "none"
	}
	origin := r.Header.Get("Origin")
	return origin != "" && !strings.EqualFold(origin, "https://"+r.Host)
}

// statusOnly is where the router says why it has nothing.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	marshalJSON(w, huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail})
}

// failed turns an error of the registry into the problem that it is.
func (a *api) failed(ctx context.Context, err error) error {
	status := 0
	for _, known := range []struct {
		err    error
		status int
	}{
		{registry.ErrUnknown, http.StatusNotFound},
		{registry.ErrVerb, http.StatusConflict},
		{registry.ErrResolved, http.StatusConflict},
		{registry.ErrUndone, http.StatusConflict},
		{registry.ErrParked, http.StatusConflict},
		{errNotDecided, http.StatusConflict},
		{errClosed, http.StatusConflict},
		{registry.ErrState, http.StatusConflict},
		{registry.ErrSucceeded, http.StatusConflict},
		{registry.ErrClash, http.StatusConflict},
		{registry.ErrNoDuplicate, http.StatusConflict},
		{registry.ErrManyOpen, http.StatusConflict},
		{registry.ErrNoUUID, http.StatusConflict},
		{registry.ErrSharedUUID, http.StatusConflict},
		{ErrNoAMT, http.StatusConflict},
		{registry.ErrExists, http.StatusConflict},
		{registry.ErrLast, http.StatusConflict},
		{registry.ErrName, http.StatusUnprocessableEntity},
		{registry.ErrWeakPassword, http.StatusUnprocessableEntity},
		{registry.ErrPlaceholder, http.StatusUnprocessableEntity},
		{errPast, http.StatusUnprocessableEntity},
		{errNoRelayToken, http.StatusUnprocessableEntity},
		{errNotIssuable, http.StatusUnprocessableEntity},
	} {
		if errors.Is(err, known.err) {
			status = known.status
			break
		}
	}
	for _, known := range slices.Concat(runErrors, settingsErrors) {
		if errors.Is(err, known.err) {
			status = known.status
		}
	}
	if _, ok := errors.AsType[*fileError](err); ok {
		status = http.StatusUnprocessableEntity
	}
	if _, ok := errors.AsType[*NotCleared](err); ok {
		status = http.StatusBadGateway
	}
	if status != 0 {
		return huma.NewError(status, err.Error())
	}
	if ctx.Err() != nil {
		return huma.NewError(http.StatusServiceUnavailable, "the request was given up")
	}
	a.log.Error("the API could not answer", "error", WithRemedy(err))
	return huma.NewError(http.StatusInternalServerError, "this could not be done; the manager's log tells why")
}

// Inputs that several operations have; huma looks into exported ones only.
type (
	InLanguage struct {
		Lang string `query:"lang" enum:"en,ja" default:"en" doc:"Language of the sentences."`
	}
	InHost struct {
		HostID string `path:"host_id" minLength:"32" maxLength:"32" pattern:"^[0-9a-f]*[1-9a-f][0-9a-f]*$" doc:"Any host ID of the asset, 32 lower-case hex digits."`
	}
	InConflict struct {
		ID int64 `path:"id" minimum:"1" doc:"Number of the conflict."`
	}
	InPage struct {
		After int64 `query:"after" minimum:"0" doc:"The next of the page before; 0 or nothing for the first page."`
		Limit int   `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"Entries on a page."`
	}
	none struct{}
)

// body is a response of one object.
type body[T any] struct{ Body T }

func (in InLanguage) language() registry.Language { return registry.Language(in.Lang) }

func (in InHost) id() hostid.ID {
	id, err := hostid.ParseID(in.HostID)
	if err != nil {
		panic("manager: the pattern of host IDs let pass " + strconv.Quote(in.HostID))
	}
	return id
}

// on registers one operation: what it returns is the body of the answer.
func on[I, O any](a *api, h huma.API, op huma.Operation, f func(context.Context, *I) (O, error)) {
	op.MaxBodyBytes = cmp.Or(op.MaxBodyBytes, maxBody)
	op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable)
	huma.Register(h, op, func(ctx context.Context, in *I) (*body[O], error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, a.failed(ctx, err)
		}
		return &body[O]{out}, nil
	})
}

func get(id, path, summary string, errs ...int) huma.Operation {
	return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Errors: errs}
}

func act(method, id, path, summary string, errs ...int) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Errors: append(errs, http.StatusRequestEntityTooLarge)}
}

// The answers that are lists. Next is what the following page begins after, 0 on the last one.
type (
	AssetPage struct {
		Assets []registry.Asset `json:"assets"`
		Next   int64            `json:"next"`
	}
	EventPage struct {
		Events []Event `json:"events"`
		Next   int64   `json:"next"`
	}
	ConflictPage struct {
		Conflicts []Conflict `json:"conflicts"`
		Next      int64      `json:"next"`
	}
	OrderList struct {
		Orders []registry.Order `json:"orders"`
	}
	RuleList struct {
		Rules []registry.Rule `json:"rules"`
	}
	PlaceholderList struct {
		Placeholders []registry.Placeholder `json:"placeholders"`
	}
	SuggestionList struct {
		Suggestions []registry.Suggestion `json:"suggestions"`
	}
	TokenList struct {
		Tokens []Token `json:"tokens"`
	}
	RelayList struct {
		Relays []registry.Relay `json:"relays"`
	}
)

func (a *api) register(h huma.API) {
	on(a, h, get("list-assets", "/api/v1/assets", "List the assets, the oldest first.", 422), a.assets)
	on(a, h, get("get-asset", "/api/v1/assets/{host_id}", "One asset, by any host ID that it had.", 404, 422), a.asset)
	on(a, h, get("list-asset-history", "/api/v1/assets/{host_id}/history", "What was decided about one asset.", 404, 422), a.assetHistory)
	on(a, h, get("list-asset-orders", "/api/v1/assets/{host_id}/orders", "The orders that its PC was given.", 404, 422), a.orders)
	on(a, h, get("list-history", "/api/v1/history", "What was decided about anything.", 422), a.history)
	on(a, h, get("list-conflicts", "/api/v1/conflicts", "List the open conflicts, the oldest first, or the closed ones, the newest first.", 422), a.conflicts)
	on(a, h, get("get-conflict", "/api/v1/conflicts/{id}", "One conflict.", 404, 422), a.conflict)
	on(a, h, get("preview-conflict", "/api/v1/conflicts/{id}/preview", "What a verb would do to it.", 404, 409, 422), a.preview)
	on(a, h, act(http.MethodPost, "resolve-conflict", "/api/v1/conflicts/{id}/resolve", "Decide it.", 404, 409, 422), a.resolve)
	on(a, h, act(http.MethodPost, "undo-conflict", "/api/v1/conflicts/{id}/undo", "Take back what was decided last about it.", 404, 409, 422), a.undo)
	on(a, h, get("list-rules", "/api/v1/rules", "The rules and what they may do."), a.rules)
	on(a, h, act(http.MethodPut, "set-rule", "/api/v1/rules/{name}", "Set what a rule may do.", 422), a.setRule)
	on(a, h, get("list-placeholders", "/api/v1/placeholders", "The values that prove nothing, besides the built-in ones."), a.placeholders)
	on(a, h, act(http.MethodPost, "add-placeholder", "/api/v1/placeholders", "Declare a value to prove nothing.", 422), a.addPlaceholder)
	on(a, h, act(http.MethodDelete, "remove-placeholder", "/api/v1/placeholders", "Take a value from the list.", 404, 422), a.removePlaceholder)
	on(a, h, get("suggest-placeholders", "/api/v1/placeholders/suggestions", "Values that three live assets or more have in common."), a.suggest)
	on(a, h, get("list-relays", "/api/v1/relays", "All relays that were ever admitted, by name: route, last contact, backlog."), a.relays)
	on(a, h, get("list-tokens", "/api/v1/tokens", "The enrolment tokens, without their secrets."), a.tokens)
	create := act(http.MethodPost, "create-token", "/api/v1/tokens", "Make an enrolment token: it is shown only in this answer.", 422)
	create.DefaultStatus = http.StatusCreated
	on(a, h, create, a.createToken)
	on(a, h, act(http.MethodDelete, "revoke-token", "/api/v1/tokens/{id}", "End a token; the PCs that it enrolled stay.", 404, 422), a.revokeToken)
	a.registerMaintenance(h)
	a.registerUsers(h)
	a.registerRuns(h)
	a.registerAMTSettings(h)
}

func (a *api) assets(ctx context.Context, in *struct {
	InPage
	Name           string `query:"name" maxLength:"255" doc:"Only PCs that call themselves so, in any case, with their domain or without."`
	State          string `query:"state" maxLength:"20" doc:"Only those in this state. Without state, retired, archived and all none that is retired or archived; deleted ones are in no list."`
	Retired        bool   `query:"retired" doc:"Only those that are retired (or, with archived, archived)."`
	Archived       bool   `query:"archived" doc:"Only those that are archived (or, with retired, retired)."`
	All            bool   `query:"all" doc:"Also those that are retired or archived."`
	NotInitialized bool   `query:"not_initialized" doc:"Only those whose memory is known not to be initialized."`
}) (AssetPage, error) {
	f := registry.AssetFilter{Name: in.Name, State: registry.State(in.State), Retired: in.Retired, Archived: in.Archived, All: in.All, NotInitialized: in.NotInitialized}
	page, next, err := a.reg.AssetsPage(ctx, f, in.After, in.Limit)
	out := AssetPage{Assets: []registry.Asset{}, Next: next}
	for _, d := range page {
		out.Assets = append(out.Assets, d.Asset)
	}
	return out, err
}

// AssetWithOrders is everything about an asset but its history.
type AssetWithOrders struct {
	registry.AssetDetail
	Orders []registry.Order `json:"orders"`
}

func (a *api) asset(ctx context.Context, in *struct{ InHost }) (AssetWithOrders, error) {
	d, err := a.reg.Asset(ctx, in.id())
	if err != nil {
		return AssetWithOrders{}, err
	}
	orders, err := a.reg.OrdersOf(ctx, in.id())
	return AssetWithOrders{d, append([]registry.Order{}, orders...)}, err
}

func (a *api) orders(ctx context.Context, in *struct{ InHost }) (OrderList, error) {
	if _, err := a.reg.Asset(ctx, in.id()); err != nil {
		return OrderList{}, err
	}
	orders, err := a.reg.OrdersOf(ctx, in.id())
	return OrderList{append([]registry.Order{}, orders...)}, err
}

// InHistory says which part of a history.
type InHistory struct {
	InPage
	InLanguage
	Newest bool `query:"newest" doc:"The newest first, and not the oldest."`
}

func (a *api) events(ctx context.Context, of hostid.ID, in InHistory) (EventPage, error) {
	events, next, err := a.reg.HistoryPage(ctx, of, in.Newest, in.After, in.Limit)
	return EventPage{Events(events, in.language()), next}, err
}

func (a *api) history(ctx context.Context, in *struct{ InHistory }) (EventPage, error) {
	return a.events(ctx, hostid.ID{}, in.InHistory)
}

func (a *api) assetHistory(ctx context.Context, in *struct {
	InHost
	InHistory
}) (EventPage, error) {
	return a.events(ctx, in.id(), in.InHistory)
}

func (a *api) conflicts(ctx context.Context, in *struct {
	InPage
	InLanguage
	Closed bool `query:"closed" doc:"Those that are closed, and not those that are open."`
}) (ConflictPage, error) {
	page, next, err := a.reg.ConflictsPage(ctx, in.Closed, in.After, in.Limit)
	return ConflictPage{Conflicts(page, in.language()), next}, err
}

func (a *api) conflict(ctx context.Context, in *struct {
	InConflict
	InLanguage
}) (Conflict, error) {
	return ShowConflict(ctx, a.reg, in.ID, false, in.language())
}

func (a *api) preview(ctx context.Context, in *struct {
	InConflict
	InLanguage
	Verb string `query:"verb" required:"true" enum:"merge,keep-both,block"`
}) (Preview, error) {
	return PreviewConflict(ctx, a.reg, in.ID, registry.Verb(in.Verb), in.language())
}

// Decision is what an administrator says about a conflict.
type Decision struct {
	Verb string `json:"verb" enum:"merge,keep-both,block" doc:"merge: it is one PC. keep-both: they are two. block: its reports change nothing."`
}

func (a *api) resolve(ctx context.Context, in *struct {
	InConflict
	InLanguage
	Body Decision
}) (Conflict, error) {
	return ResolveConflict(ctx, a.reg, in.ID, registry.Verb(in.Body.Verb), who(ctx), in.language())
}

func (a *api) undo(ctx context.Context, in *struct {
	InConflict
	InLanguage
}) (Conflict, error) {
	return UndoConflict(ctx, a.reg, in.ID, who(ctx), in.language())
}

func (a *api) rules(ctx context.Context, _ *none) (RuleList, error) {
	rules, err := a.reg.Rules(ctx)
	return RuleList{rules}, err
}

// NewMode is what a rule may do from now on.
type NewMode struct {
	Mode string `json:"mode" enum:"off,observe,enforce"`
}

func (a *api) setRule(ctx context.Context, in *struct {
	Name string `path:"name" enum:"other-board,same-board,replacement"`
	Body NewMode
}) (registry.Rule, error) {
	return SetRule(ctx, a.reg, in.Name, registry.Mode(in.Body.Mode), who(ctx))
}

func (a *api) placeholders(ctx context.Context, _ *none) (PlaceholderList, error) {
	all, err := a.reg.Placeholders(ctx)
	return PlaceholderList{append([]registry.Placeholder{}, all...)}, err
}

// NewPlaceholder is a value that is to prove nothing.
type NewPlaceholder struct {
	Kind    string `json:"kind" enum:"uuid,serial,mac"`
	Pattern string `json:"pattern" minLength:"1" maxLength:"200" doc:"The whole value, in any case; * stands for any characters."`
}

func (a *api) addPlaceholder(ctx context.Context, in *struct{ Body NewPlaceholder }) (registry.Placeholder, error) {
	return AddPlaceholder(ctx, a.reg, in.Body.Kind, in.Body.Pattern, who(ctx))
}

// Removed says what is on a list no more.
type Removed struct {
	Kind    string `json:"kind"`
	Pattern string `json:"pattern"`
	State   string `json:"state"`
}

func (a *api) removePlaceholder(ctx context.Context, in *struct {
	Kind    string `query:"kind" required:"true" enum:"uuid,serial,mac"`
	Pattern string `query:"pattern" required:"true" minLength:"1" maxLength:"200"`
}) (Removed, error) {
	err := a.reg.RemovePlaceholder(ctx, in.Kind, in.Pattern, who(ctx))
	return Removed{in.Kind, in.Pattern, "removed"}, err
}

func (a *api) suggest(ctx context.Context, _ *none) (SuggestionList, error) {
	all, err := a.reg.SuggestPlaceholders(ctx)
	return SuggestionList{append([]registry.Suggestion{}, all...)}, err
}

// Token is an enrolment token as lists show it.
type Token struct {
	registry.Token
	State string `json:"state"`
}

// Tokens tells how tokens stand.
func Tokens(tokens []registry.Token, now time.Time) []Token {
	list := []Token{}
	for _, t := range tokens {
		list = append(list, Token{t, t.State(now)})
	}
	return list
}

func (a *api) relays(ctx context.Context, _ *none) (RelayList, error) {
	relays, err := a.reg.Relays(ctx)
	return RelayList{append([]registry.Relay{}, relays...)}, err
}

func (a *api) tokens(ctx context.Context, _ *none) (TokenList, error) {
	tokens, err := a.reg.Tokens(ctx)
	return TokenList{Tokens(tokens, time.Now())}, err
}

// MaxNote is how long the note of a token may be, in bytes.
const MaxNote = 200

// NewToken is a token that is to be made.
type NewToken struct {
	Expires time.Time `json:"expires,omitzero" doc:"When it ends; nothing: never."`
	Note    string    `json:"note,omitempty" maxLength:"200" doc:"What it is for."`
	Relay   bool      `json:"relay,omitempty" doc:"It admits one relay system; else it enrols PCs."`
	Names   []string  `json:"names,omitempty" maxItems:"100" doc:"Names and addresses by which PCs call that relay, for its certificate; nothing: what it calls itself."`
}

// MadeToken is a token that was made, with its secret.
type MadeToken struct {
	ID      string    `json:"id"`
	Token   string    `json:"token"`
	Expires time.Time `json:"expires,omitzero"`
}

func (a *api) createToken(ctx context.Context, in *struct{ Body NewToken }) (MadeToken, error) {
	if e := in.Body.Expires; !e.IsZero() && e.Before(time.Now()) {
		return MadeToken{}, fmt.Errorf("expires %s: %w", e.UTC().Format(time.RFC3339), errPast)
	}
	if !in.Body.Relay {
		if len(in.Body.Names) > 0 {
			return MadeToken{}, fmt.Errorf("names: %w", errNoRelayToken)
		}
		return MakeToken(ctx, a.reg, in.Body.Expires, in.Body.Note, who(ctx))
	}
	for i, n := range in.Body.Names {
		if !issuable(n) {
			return MadeToken{}, fmt.Errorf("names[%d]: %w", i, errNotIssuable)
		}
	}
	return MakeRelayToken(ctx, a.reg, in.Body.Names, in.Body.Expires, in.Body.Note, who(ctx))
}

// What is wrong with the names of a relay's token.
var (
	errNoRelayToken = errors.New("only a relay's token has names; write relay: true beside them")
	errNotIssuable  = errors.New("this is no IP address and no DNS name that a certificate may be for")
)

// errPast is a moment that is over.
var errPast = errors.New("this moment is over")

// MakeToken makes an enrolment token. It is shown only in what this returns.
func MakeToken(ctx context.Context, reg *registry.Registry, expires time.Time, note, who string) (MadeToken, error) {
	tok, err := reg.CreateToken(ctx, expires, note, who)
	if err != nil {
		return MadeToken{}, err
	}
	if !expires.IsZero() {
		expires = expires.UTC().Truncate(time.Millisecond)
	}
	return MadeToken{tok.ID, tok.Text(), expires}, nil
}

// Revoked says that a token enrols nobody any more.
type Revoked struct {
	ID    string `json:"id"`
	State string `json:"state"`
}

func (a *api) revokeToken(ctx context.Context, in *struct {
	ID string `path:"id" pattern:"^[0-9a-f]{16}$" doc:"The token's ID, never the whole token."`
}) (Revoked, error) {
	err := a.reg.RevokeToken(ctx, in.ID, who(ctx))
	return Revoked{in.ID, "revoked"}, err
}
