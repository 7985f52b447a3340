package agent

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"samehost/internal/hostid"
)

// The running service is asked over a loopback TCP connection: the same code on every system, and no limit on the
// length of the data folder's path as a socket in it would have. Where the port is and the secret that proves both
// sides stand in a file of the data folder, which only those may read who may read the folder. The secret never
// travels, and every start draws another: whoever else finds the port can neither ask nor answer.
const controlName = "control.json"

const (
	controlBound   = 64 << 10         // bytes of a question, an answer and the file
	controlClients = 4                // connections served at once; more wait in the backlog
	controlAsk     = 5 * time.Second  // to connect and to state the question
	controlAnswer  = 10 * time.Minute // a check-in with slow hardware and a slow network
)

// ErrNoService says that no running service could be asked.
var ErrNoService = errors.New("the samehost-client service does not answer")

type controlFile struct {
	Address string `json:"address"`
	Secret  string `json:"secret"` // 64 hex digits
}

// The questions.
const (
	askCheckIn = "checkin"
	askServing = "serving" // are you there?
)

// controlMessage is a question, or its answer.
type controlMessage struct {
	Nonce   string   `json:"nonce"`
	Ask     string   `json:"ask"`
	Outcome *Outcome `json:"outcome,omitempty"`
	Error   string   `json:"error,omitempty"`
	MAC     []byte   `json:"mac"`
}

// sum authenticates everything but the MAC itself; who keeps a question from serving as an answer.
func (m controlMessage) sum(who string, secret []byte) []byte {
	m.MAC = nil
	b, _ := json.Marshal(m) // strings, bools and times: cannot fail
	mac := hmac.New(sha256.New, secret)
	io.WriteString(mac, "samehost/control/1 "+who+"\x00")
	mac.Write(b)
	return mac.Sum(nil)
}

// control serves other processes' wish for a check-in.
type control struct {
	listener net.Listener
	path     string
	file     []byte // what was written there
	done     sync.WaitGroup
}

// serveControl opens the port and writes the file. checkIn is called for each question, several at once.
func serveControl(ctx context.Context, folder string, checkIn func(context.Context) (Outcome, error)) (*control, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	b, _ := json.Marshal(controlFile{listener.Addr().String(), hex.EncodeToString(secret)})
	c := &control{listener: listener, path: filepath.Join(folder, controlName), file: b}
	if err := hostid.WriteFileDurably(c.path, b); err != nil {
		listener.Close()
		return nil, err
	}
	free := make(chan struct{}, controlClients)
	c.done.Go(func() {
		for {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			c.done.Go(func() {
				defer func() { <-free }()
				defer conn.Close()
				answer(ctx, conn, secret, checkIn)
			})
		}
	})
	return c, nil
}

// Close ends what ctx did not end yet, and waits for it.
func (c *control) Close() {
	c.listener.Close()
	c.done.Wait()
	// Where the folder was replaced, another service's may be in its place.
	if b, err := hostid.ReadRegularFile(c.path, controlBound); err == nil && bytes.Equal(b, c.file) {
		os.Remove(c.path)
	}
}

func answer(ctx context.Context, conn net.Conn, secret []byte, checkIn func(context.Context) (Outcome, error)) {
	conn.SetDeadline(time.Now().Add(controlAsk))
	var ask controlMessage
	dec := json.NewDecoder(io.LimitReader(conn, controlBound))
	if dec.Decode(&ask) != nil || !hmac.Equal(ask.MAC, ask.sum("ask", secret)) {
		return
	}
	conn.SetDeadline(time.Now().Add(controlAnswer))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // whoever asked went away, or the deadline passed
		conn.Read(make([]byte, 1))
		cancel()
	}()
	reply := controlMessage{Nonce: ask.Nonce, Ask: ask.Ask}
	switch ask.Ask {
	case askCheckIn:
		outcome, err := checkIn(ctx)
		if err != nil {
			reply.Error = err.Error()
		} else {
			reply.Outcome = &outcome
		}
	case askServing:
	default:
		reply.Error = "the running service is of another version: restart it"
	}
	reply.MAC = reply.sum("answer", secret)
	json.NewEncoder(conn).Encode(reply)
}

// RequestCheckIn has the service that works in a data folder check in now, and returns what came of it. It fails
// with ErrNoService where none can be asked; any other error is the service's own.
func RequestCheckIn(ctx context.Context, folder string) (Outcome, error) {
	return request(ctx, folder, askCheckIn)
}

// Serving reports whether a running service works in a data folder, and not just a command.
func Serving(ctx context.Context, folder string) bool {
	_, err := request(ctx, folder, askServing)
	return err == nil
}

func request(ctx context.Context, folder, question string) (Outcome, error) {
	b, err := hostid.ReadRegularFile(filepath.Join(folder, controlName), controlBound)
	if err != nil {
		return Outcome{}, fmt.Errorf("%w: %s: %w", ErrNoService, controlName, err)
	}
	var at controlFile
	if err := strictJSON(b, &at); err != nil {
		return Outcome{}, fmt.Errorf("%w: %s: %w", ErrNoService, controlName, err)
	}
	secret, err := hex.DecodeString(at.Secret)
	host, _, splitErr := net.SplitHostPort(at.Address)
	if ip := net.ParseIP(host); err != nil || len(secret) != 32 || splitErr != nil || ip == nil || !ip.IsLoopback() {
		return Outcome{}, fmt.Errorf("%w: %s is damaged", ErrNoService, controlName)
	}
	dialer := net.Dialer{Timeout: controlAsk}
	conn, err := dialer.DialContext(ctx, "tcp", at.Address)
	if err != nil {
		return Outcome{}, fmt.Errorf("%w: %w", ErrNoService, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	conn.SetDeadline(time.Now().Add(controlAnswer))
	ask := controlMessage{Nonce: rand.Text(), Ask: question}
	ask.MAC = ask.sum("ask", secret)
	var reply controlMessage
	err = json.NewEncoder(conn).Encode(ask)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, controlBound)).Decode(&reply)
	}
	switch {
	case ctx.Err() != nil:
		return Outcome{}, ctx.Err()
	case err != nil:
		return Outcome{}, fmt.Errorf("%w: %w", ErrNoService, err)
	case reply.Nonce != ask.Nonce || !hmac.Equal(reply.MAC, reply.sum("answer", secret)):
		return Outcome{}, fmt.Errorf("%w: something else answers at %s", ErrNoService, at.Address)
	case reply.Error != "":
		return Outcome{}, errors.New(reply.Error)
	case reply.Outcome != nil:
		return *reply.Outcome, nil
	}
	return Outcome{}, nil
}
