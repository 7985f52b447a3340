package checkin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"samehost/internal/hostid"
)

// RelayPath is where a higher system serves relays; docs/protocol/relay.md states what is there.
const RelayPath = "/relay/v1/"

const (
	pathBatch       = RelayPath + "batch"
	pathWork        = RelayPath + "work"
	pathProgress    = RelayPath + "progress"
	pathCertificate = RelayPath + "certificate"
	mediaJSON       = "application/json"
)

// Limits of a batch. A full one of usual reports is half a megabyte; the manager's commit for it, not the network, is what
// it spreads the cost of.
const (
	maxBatch       = 256
	maxBatchText   = 1 << 20               // bytes of reports after which a batch is sent
	maxBatchBody   = 4 << 20               // bytes of a request
	maxBatchAnswer = maxBatch * (64 << 10) // bytes of an answer: a reply with placeholders and settings has 60 KiB
	maxWorkAnswer  = 16 << 20
	maxUnderWay    = 4                    // batches of one relay at once; its higher system answers more with Busy
	linger         = 2 * time.Millisecond // the first report of a batch waits that long for others
	maxHeld        = 10 * 365 * 24 * time.Hour
	maxRelaysBelow = 1000 // relays that one connection may speak for
	maxWorkHad     = 64 * 1000
	holdWork       = 45 * time.Second // a poll for work; below what idle connections are cut after
	batchTimeout   = 60 * time.Second // of a batch and of everything else but a poll
	maxServed      = 64               // batches of all relays under way at a higher system
	maxServedOne   = 2 * maxUnderWay  // and of one relay: those of before that it gave up may still be under way
	maxPolls       = 4                // questions for work that one relay waits with; an honest one has one, and those that it gave up
	maxProgresses  = 64               // that one relay hands on at once: each below it has one or two
	maxCertifying  = 16               // requests for certificates, which anybody may send
	busyServing    = time.Second
)

// RelayState is what a relay says of its own spool in its report.
type RelayState struct {
	Reports int64 `json:"reports"`  // kept, because the higher system has not taken them yet
	Bytes   int64 `json:"bytes"`    // that the spool takes on the disk
	Bound   int64 `json:"bound"`    // bytes that it may take: beyond it reports are not taken
	OldestS int64 `json:"oldest_s"` // seconds that the oldest of them has waited; 0: none waits
	Refused int64 `json:"refused"`  // reports turned away since the relay started: at the bound, or of one that sent too many
}

// WorkQuery is a relay's question for work: for itself and for those below it.
type WorkQuery struct {
	Relays []hostid.ID `json:"relays"`
	Have   []string    `json:"have"` // IDs of work that they have already
}

// WorkAnswer is the answer to a WorkQuery.
type WorkAnswer struct {
	Work    []string    `json:"work"`    // as signed
	Revoked []hostid.ID `json:"revoked"` // those of the relays asked for that are none any more
}

type wireHop struct {
	Relay     hostid.ID `json:"relay"`
	HeldMS    int64     `json:"held_ms"`
	Uncertain bool      `json:"uncertain,omitzero"`
}

type wireReport struct {
	JWS  string    `json:"jws"`
	Hops []wireHop `json:"hops"`
}

type wireBatch struct {
	Reports []wireReport `json:"reports"`
}

type wireRefusal struct {
	Code   RefusalCode `json:"code"`
	Detail string      `json:"detail"`
}

type wireBusy struct {
	AfterMS int64  `json:"after_ms"`
	Reason  string `json:"reason"`
}

type wireLate struct {
	Report  Digest       `json:"report"`
	Reply   string       `json:"reply,omitempty"`
	Refused *wireRefusal `json:"refused,omitempty"`
}

func writeLate(l *LateReply) *wireLate {
	switch {
	case l == nil:
		return nil
	case l.Refused != nil:
		return &wireLate{Report: l.Report, Refused: &wireRefusal{l.Refused.Code, l.Refused.Detail}}
	}
	return &wireLate{Report: l.Report, Reply: l.Raw}
}

// readLate is nil also for what the manager did not sign.
func readLate(w *wireLate, manager Fingerprint) *LateReply {
	if w == nil {
		return nil
	}
	if w.Refused != nil {
		return &LateReply{Report: w.Report, Refused: w.Refused.refusal()}
	}
	if _, err := VerifyReply(w.Reply, manager, w.Report); err != nil {
		return nil
	}
	return &LateReply{Report: w.Report, Raw: w.Reply}
}

func (w wireRefusal) refusal() *Refusal {
	return &Refusal{RefusalCode(printable(string(w.Code), maxName)), printable(w.Detail, maxText)}
}

// wireAnswer has exactly one member, and Late with Deferred.
type wireAnswer struct {
	Reply    string       `json:"reply,omitempty"`
	Deferred bool         `json:"deferred,omitzero"`
	Late     *wireLate    `json:"late,omitempty"`
	Refused  *wireRefusal `json:"refused,omitempty"`
	Busy     *wireBusy    `json:"busy,omitempty"`
}

type wireAnswers struct {
	Answers []wireAnswer `json:"answers"`
}

type wireProgress struct {
	Progress string `json:"progress"`
}

type wireCertificate struct {
	Request string `json:"request"`
}

type wireIssued struct {
	Issued string `json:"issued"`
}

// RelayClient is a relay's way to its higher system. Concurrent CheckIns travel together in one request; the interface
// stays one report, one reply.
type RelayClient struct {
	client *Client
	base   string
	ctx    context.Context // of requests that several callers wait for
	cancel context.CancelFunc

	mu        sync.Mutex
	queue     []*batched
	underWay  int
	lingering bool
	full      chan struct{} // closed when the queue makes a whole batch
}

type batched struct {
	report SignedReport
	done   chan struct{}
	reply  Reply
	err    error
}

// NewRelayClient is NewClient for a relay, which shows o.Certificate. Without one the higher system takes nothing but a
// request for a certificate.
func NewRelayClient(o ClientOptions) (*RelayClient, error) {
	c, err := NewClient(o)
	if err != nil {
		return nil, err
	}
	t := c.http.Transport.(*http.Transport)
	t.MaxIdleConns = maxUnderWay + 3 // a poll, progress and a certificate beside the batches
	t.MaxIdleConnsPerHost = t.MaxIdleConns
	r := &RelayClient{client: c, base: strings.TrimSuffix(c.url, Path), full: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// Close ends what is under way and drops idle connections.
func (c *RelayClient) Close() {
	c.cancel()
	c.client.Close()
}

// Renew drops idle connections, so that the next request shows the certificate that there is by then.
func (c *RelayClient) Renew() { c.client.Close() }

// CheckIn implements HigherSystem, with the report's hops. An answer for the batch as a whole that refuses this relay is an
// ErrUnavailable: it says nothing about the report.
func (c *RelayClient) CheckIn(ctx context.Context, r SignedReport) (Reply, error) {
	b := &batched{report: r, done: make(chan struct{})}
	c.enqueue(b)
	select {
	case <-b.done:
		return b.reply, b.err
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	}
}

func (c *RelayClient) enqueue(b *batched) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, b)
	if len(c.queue) >= maxBatch {
		select {
		case <-c.full:
		default:
			close(c.full)
		}
	}
	if !c.lingering && c.underWay < maxUnderWay {
		c.lingering = true
		c.underWay++
		go c.send()
	}
}

// send sends batches until none waits. One sender at a time lingers, so that what arrives together travels together.
func (c *RelayClient) send() {
	for {
		c.mu.Lock()
		full := c.full
		c.mu.Unlock()
		timer := time.NewTimer(linger)
		select {
		case <-timer.C:
		case <-full:
		}
		timer.Stop()
		c.mu.Lock()
		n, size := 0, 0
		for n < len(c.queue) && n < maxBatch && size < maxBatchText {
			size += len(c.queue[n].report.JWS)
			n++
		}
		batch := c.queue[:n:n]
		c.queue = append([]*batched(nil), c.queue[n:]...)
		if len(c.queue) < maxBatch {
			c.full = make(chan struct{})
		}
		c.lingering = false
		if len(c.queue) > 0 && c.underWay < maxUnderWay {
			c.lingering = true
			c.underWay++
			go c.send()
		}
		c.mu.Unlock()
		if n > 0 {
			c.post(batch)
		}
		c.mu.Lock()
		if len(c.queue) == 0 || c.lingering {
			c.underWay--
			c.mu.Unlock()
			return
		}
		c.lingering = true
		c.mu.Unlock()
	}
}

// post sends one batch and tells each caller what came of it.
func (c *RelayClient) post(batch []*batched) {
	request := wireBatch{Reports: make([]wireReport, len(batch))}
	for i, b := range batch {
		request.Reports[i] = wireReport{b.report.JWS, wireHops(b.report.Hops)}
	}
	var answers wireAnswers
	err := c.call(c.ctx, pathBatch, batchTimeout, request, maxBatchAnswer, &answers)
	if err == nil && len(answers.Answers) != len(batch) {
		err = c.client.unavailable(fmt.Errorf("%d answers to %d reports", len(answers.Answers), len(batch)))
	}
	for i, b := range batch {
		if b.err = err; err == nil {
			b.reply, b.err = c.answered(b.report, answers.Answers[i])
		}
		close(b.done)
	}
}

// answered reads one answer. A reply holds only if the manager's key signed it for this report.
func (c *RelayClient) answered(r SignedReport, a wireAnswer) (Reply, error) {
	switch {
	case a.Reply != "":
		reply, err := VerifyReply(a.Reply, c.client.manager, r.Digest())
		if err != nil {
			return Reply{}, c.client.unavailable(fmt.Errorf("%w: %w", ErrForged, err))
		}
		return reply, nil
	case a.Deferred:
		return Reply{Report: r.Digest(), Status: Deferred, Late: readLate(a.Late, c.client.manager)}, nil
	case a.Refused != nil:
		return Reply{}, a.Refused.refusal()
	case a.Busy != nil:
		return Reply{}, &Busy{After: afterMS(a.Busy.AfterMS), Reason: printable(a.Busy.Reason, maxText)}
	}
	return Reply{}, c.client.unavailable(fmt.Errorf("%w: it is neither a reply nor anything else", ErrForged))
}

func afterMS(ms int64) time.Duration {
	const most = 24 * time.Hour
	return time.Duration(min(max(ms, 0), most.Milliseconds())) * time.Millisecond
}

// Work asks for work and waits for it, some 45 seconds at most; then the answer is empty. Nothing in it is verified.
func (c *RelayClient) Work(ctx context.Context, q WorkQuery) (WorkAnswer, error) {
	var a WorkAnswer
	err := c.call(ctx, pathWork, holdWork+batchTimeout/2, q, maxWorkAnswer, &a)
	return a, err
}

// Progress hands signed progress on. A Refusal says that it will never be taken.
func (c *RelayClient) Progress(ctx context.Context, jws string) error {
	return c.call(ctx, pathProgress, batchTimeout, wireProgress{jws}, maxReply, &struct{}{})
}

// Certificate hands a request for a certificate on, and returns the signed answer, which is not verified. A Refusal says why
// there is none.
func (c *RelayClient) Certificate(ctx context.Context, request string) (string, error) {
	var a wireIssued
	err := c.call(ctx, pathCertificate, batchTimeout, wireCertificate{request}, maxReply, &a)
	return a.Issued, err
}

// call posts JSON and reads JSON. Problems with a code are Refusals, but for what concerns the relay and not what it
// sends; all else is ErrUnavailable.
func (c *RelayClient) call(ctx context.Context, path string, timeout time.Duration, in any, limit int64, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaJSON)
	res, err := c.client.http.Do(req)
	if err != nil {
		return c.client.unavailable(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return c.client.unavailable(err)
	}
	if int64(len(answer)) > limit {
		return c.client.unavailable(fmt.Errorf("an answer of more than %d bytes", limit))
	}
	if res.StatusCode == http.StatusForbidden {
		c.Renew() // the certificate of this connection may be one of before
	}
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case res.StatusCode == http.StatusOK && media == mediaJSON:
		if err := json.Unmarshal(answer, out); err != nil {
			return c.client.unavailable(errors.New("an answer that cannot be read"))
		}
		return nil
	case media == mediaProblem:
		var p problem
		if err := json.Unmarshal(answer, &p); err != nil {
			break
		}
		if after, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && after >= 0 && res.StatusCode == http.StatusServiceUnavailable {
			return &Busy{After: afterMS(int64(min(after, 86400)) * 1000), Reason: printable(p.Detail, maxText)}
		}
		if code, ok := strings.CutPrefix(p.Type, problemBase); ok && res.StatusCode >= 400 && res.StatusCode < 500 {
			return &Refusal{RefusalCode(printable(code, maxName)), printable(p.Detail, maxText)}
		}
		return c.client.unavailable(fmt.Errorf("HTTP %d: %s", res.StatusCode, printable(p.text(), maxText)))
	}
	return c.client.unavailable(fmt.Errorf("HTTP %d with %q: is this really a samehost manager or relay?", res.StatusCode, printable(media, maxName)))
}

func wireHops(hops []Hop) []wireHop {
	list := make([]wireHop, len(hops))
	for i, h := range hops {
		list[i] = wireHop{h.Relay, h.Held.Milliseconds(), h.Uncertain}
	}
	return list
}

// readHops judges the hops that the relay of a connection names: the last one is itself, and none stands there twice.
func readHops(wire []wireHop, from hostid.ID) ([]Hop, error) {
	if len(wire) == 0 || len(wire) > MaxHops {
		return nil, fmt.Errorf("%d hops, want 1 to %d", len(wire), MaxHops)
	}
	hops := make([]Hop, len(wire))
	for i, w := range wire {
		if w.Relay.IsZero() || w.HeldMS < 0 || w.HeldMS > maxHeld.Milliseconds() {
			return nil, errors.New("a hop is missing a part or out of bounds")
		}
		for _, h := range hops[:i] {
			if h.Relay == w.Relay {
				return nil, fmt.Errorf("the relay %s stands there twice: relays lead in a circle", h.Relay)
			}
		}
		hops[i] = Hop{w.Relay, time.Duration(w.HeldMS) * time.Millisecond, w.Uncertain}
	}
	if last := hops[len(hops)-1].Relay; last != from {
		return nil, fmt.Errorf("the last hop is %s, the connection is of %s", last, from)
	}
	return hops, nil
}

// ForRelays is what relays need of their higher system besides check-ins.
type ForRelays struct {
	// Who tells which relay a request is from, and fails with an error that wraps ErrNoRelay where it is from none.
	Who func(*http.Request) (hostid.ID, error)
	// Work returns as soon as there is an answer that is not empty, or when the context ends.
	Work func(ctx context.Context, from hostid.ID, q WorkQuery) (WorkAnswer, error)
	// Progress takes what a relay, or one below it, says of its work.
	Progress func(ctx context.Context, from hostid.ID, jws string) error
	// Certificate issues what is asked for. Anybody may ask: the request carries its own proof.
	Certificate func(ctx context.Context, request string) (string, error)
}

// RelayHandler serves relays at RelayPath. Reports of a batch go to h at once, each with its hops; what h fails with that
// is neither Refusal nor Busy is logged, within the bounds of Quiet, and answered with Busy.
func RelayHandler(h HigherSystem, o ForRelays, log *slog.Logger) http.Handler {
	s := &relayServer{higher: h, o: o, quiet: NewQuiet(log), places: make(chan struct{}, maxServed), certs: make(chan struct{}, maxCertifying),
		large: make(chan struct{}, largeReports), of: make(map[underWay]int)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathBatch, s.batch)
	mux.HandleFunc("POST "+pathWork, s.work)
	mux.HandleFunc("POST "+pathProgress, s.progress)
	mux.HandleFunc("POST "+pathCertificate, s.certificate)
	return mux
}

type relayServer struct {
	higher HigherSystem
	o      ForRelays
	quiet  *Quiet
	places chan struct{}
	certs  chan struct{}
	large  chan struct{} // requests for certificates that take much memory while they are read

	mu sync.Mutex
	of map[underWay]int
}

// underWay names the requests of one relay at one path.
type underWay struct {
	relay hostid.ID
	path  string
}

// one counts a request of a relay in, until it calls done, or answers that the relay has too many under way: they are not small, and
// the others' are to find room.
func (s *relayServer) one(w http.ResponseWriter, req *http.Request, from hostid.ID, most int) (done func(), ok bool) {
	which := underWay{from, req.URL.Path}
	s.mu.Lock()
	if ok = s.of[which] < most; ok {
		s.of[which]++
	}
	s.mu.Unlock()
	if !ok {
		s.failed(w, req, &Busy{After: busyServing, Reason: fmt.Sprintf("%d requests of this relay are under way", most)})
		return nil, false
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.of[which]--; s.of[which] == 0 {
			delete(s.of, which)
		}
	}, true
}

// from is the relay that a request is from; if it is from none that was answered.
func (s *relayServer) from(w http.ResponseWriter, req *http.Request) (hostid.ID, bool) {
	id, err := s.o.Who(req)
	switch {
	case err == nil:
		return id, true
	case errors.Is(err, ErrNoRelay):
		sendProblem(w, http.StatusForbidden, problem{Type: "about:blank", Title: "Not a relay", Detail: err.Error()})
	default:
		s.failed(w, req, err)
	}
	return hostid.ID{}, false
}

// read reads a request into v, or answers that it cannot be read.
func (s *relayServer) read(w http.ResponseWriter, req *http.Request, limit int64, v any) bool {
	w.Header().Set("Cache-Control", "no-store")
	if media, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type")); media != mediaJSON {
		sendProblem(w, http.StatusUnsupportedMediaType, problem{Type: "about:blank", Title: "This takes " + mediaJSON})
		return false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, limit))
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		sendProblem(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "The request cannot be read", Detail: printable(err.Error(), maxText)})
		return false
	}
	return true
}

func (s *relayServer) send(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", mediaJSON)
	json.NewEncoder(w).Encode(v)
}

// failed answers a request that came to nothing.
func (s *relayServer) failed(w http.ResponseWriter, req *http.Request, err error) {
	var refusal *Refusal
	var busy *Busy
	switch {
	case errors.As(err, &refusal):
		refuse(w, http.StatusForbidden, refusal)
	case errors.As(err, &busy):
		w.Header().Set("Retry-After", strconv.Itoa(int((busy.After+time.Second-1)/time.Second)))
		sendProblem(w, http.StatusServiceUnavailable, problem{Type: "about:blank", Title: "Try again later", Detail: busy.Reason})
	default:
		if req.Context().Err() == nil && !errors.Is(err, ErrUnavailable) {
			s.quiet.Error("a relay's request failed", fmt.Errorf("%s: %w", req.URL.Path, err))
		}
		w.Header().Set("Retry-After", strconv.Itoa(5+rand.N(10)))
		sendProblem(w, http.StatusServiceUnavailable, problem{Type: "about:blank", Title: "Try again later"})
	}
}

func (s *relayServer) batch(w http.ResponseWriter, req *http.Request) {
	from, ok := s.from(w, req)
	if !ok {
		return
	}
	done, ok := s.one(w, req, from, maxServedOne)
	if !ok {
		return
	}
	defer done()
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		s.failed(w, req, &Busy{After: busyServing, Reason: "too many batches at once"})
		return
	}
	var in wireBatch
	if !s.read(w, req, maxBatchBody, &in) {
		return
	}
	if len(in.Reports) == 0 || len(in.Reports) > maxBatch {
		sendProblem(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "The batch cannot be read", Detail: fmt.Sprintf("%d reports, want 1 to %d", len(in.Reports), maxBatch)})
		return
	}
	out := wireAnswers{make([]wireAnswer, len(in.Reports))}
	var all sync.WaitGroup
	for i, r := range in.Reports {
		hops, err := readHops(r.Hops, from)
		switch {
		case err != nil: // nothing is wrong with the report: its relay may send it again once it knows better
			s.quiet.Warn("a relay sends reports with wrong hops", fmt.Sprintf("relay %s: %v", from, err))
			out.Answers[i].Busy = &wireBusy{time.Minute.Milliseconds(), "hops: " + err.Error()}
			continue
		case len(r.JWS) > MaxReport:
			out.Answers[i].Refused = &wireRefusal{Malformed, fmt.Sprintf("a report has at most %d bytes", MaxReport)}
			continue
		}
		all.Go(func() { out.Answers[i] = s.answer(req, SignedReport{JWS: r.JWS, Hops: hops}) })
	}
	all.Wait()
	out.fit()
	s.send(w, out)
}

// fit leaves out what does not fit into one answer: long replies, where the manager tells thousands of PCs the same at a time. A relay
// could not read any of it. What was replied is replied again when the report comes again.
func (a *wireAnswers) fit() {
	const around = 256 // bytes of names and digests
	size := 0
	for i := range a.Answers {
		b := &a.Answers[i]
		late := 0
		if b.Late != nil {
			late = len(b.Late.Reply)
		}
		if size+len(b.Reply)+late+around > maxBatchAnswer-maxBatch*(maxText+around) && size > 0 { // refusals and reasons fit
			if b.Late = nil; b.Reply != "" {
				*b = wireAnswer{Busy: &wireBusy{busyServing.Milliseconds(), "the answers do not fit into one"}}
			}
			continue
		}
		size += len(b.Reply) + late + around
	}
}

// answer is what one report of a batch comes to.
func (s *relayServer) answer(req *http.Request, r SignedReport) wireAnswer {
	reply, err := s.higher.CheckIn(req.Context(), r)
	var refusal *Refusal
	var busy *Busy
	switch {
	case err == nil && reply.Status == Deferred:
		return wireAnswer{Deferred: true, Late: writeLate(reply.Late)}
	case err == nil:
		return wireAnswer{Reply: reply.Raw}
	case errors.As(err, &refusal):
		return wireAnswer{Refused: &wireRefusal{refusal.Code, refusal.Detail}}
	case errors.As(err, &busy):
		return wireAnswer{Busy: &wireBusy{busy.After.Milliseconds(), busy.Reason}}
	}
	if req.Context().Err() == nil {
		s.quiet.Error("check-in through a relay failed", fmt.Errorf("relay %s: %w", r.Hops[len(r.Hops)-1].Relay, err))
	}
	return wireAnswer{Busy: &wireBusy{(5*time.Second + rand.N(10*time.Second)).Milliseconds(), "try again later"}}
}

func (s *relayServer) work(w http.ResponseWriter, req *http.Request) {
	from, ok := s.from(w, req)
	if !ok {
		return
	}
	done, ok := s.one(w, req, from, maxPolls)
	if !ok {
		return
	}
	defer done()
	var q WorkQuery
	if !s.read(w, req, maxBatchBody, &q) {
		return
	}
	if len(q.Relays) == 0 || len(q.Relays) > maxRelaysBelow || len(q.Have) > maxWorkHad {
		sendProblem(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "The request cannot be read", Detail: fmt.Sprintf("want 1 to %d relays", maxRelaysBelow)})
		return
	}
	if q.Relays[0] != from {
		sendProblem(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "The request cannot be read", Detail: "a relay asks for itself first: the connection is of " + from.String()})
		return
	}
	for _, id := range q.Have {
		if !validWorkID(id) {
			sendProblem(w, http.StatusBadRequest, problem{Type: "about:blank", Title: "The request cannot be read", Detail: "have: no work has such an ID"})
			return
		}
	}
	ctx, cancel := context.WithTimeout(req.Context(), holdWork)
	defer cancel()
	a, err := s.o.Work(ctx, from, q)
	if err != nil && ctx.Err() == nil {
		s.failed(w, req, err)
		return
	}
	s.send(w, a)
}

func (s *relayServer) progress(w http.ResponseWriter, req *http.Request) {
	from, ok := s.from(w, req)
	if !ok {
		return
	}
	done, ok := s.one(w, req, from, maxProgresses)
	if !ok {
		return
	}
	defer done()
	var in wireProgress
	if !s.read(w, req, MaxProgress+1024, &in) {
		return
	}
	if err := s.o.Progress(req.Context(), from, in.Progress); err != nil {
		s.failed(w, req, err)
		return
	}
	s.send(w, struct{}{})
}

func (s *relayServer) certificate(w http.ResponseWriter, req *http.Request) {
	if req.ContentLength < 0 || req.ContentLength > smallReport { // as in Handler
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		default:
			s.failed(w, req, &Busy{After: busyServing + rand.N(10*busyServing), Reason: "too many large requests for certificates at once"})
			return
		}
	}
	var in wireCertificate
	if !s.read(w, req, maxCertificateRequest+1024, &in) {
		return
	}
	select {
	case s.certs <- struct{}{}:
		defer func() { <-s.certs }()
	default:
		s.failed(w, req, &Busy{After: busyServing + rand.N(10*busyServing), Reason: "too many requests for certificates at once"})
		return
	}
	issued, err := s.o.Certificate(req.Context(), in.Request)
	if err != nil {
		s.failed(w, req, err)
		return
	}
	s.send(w, wireIssued{issued})
}
