package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What bounds a check-in, measured on the same processors in the same run: the signatures, the disk, the connection.

const (
	bareSeconds = 3
	clients     = 64 // at a time, as many connections as fleetsim has

	// A delta and the reply to it with their HTTP headers take about as much.
	bareUp, bareDown = 1000, 500
)

// forEachProcessor counts how often f goes through in the time, on all processors together.
func forEachProcessor(n int, d time.Duration, f func() error) (perSecond float64, err error) {
	var count atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	began := time.Now()
	for range n {
		all.Go(func() {
			for time.Since(began) < d {
				if err := f(); err != nil {
					failed.Store(&err)
					return
				}
				count.Add(1)
			}
		})
	}
	all.Wait()
	if e := failed.Load(); e != nil {
		return 0, *e
	}
	return float64(count.Load()) / time.Since(began).Seconds(), nil
}

// bareSignatures is how many times per second a message can be verified and another one signed.
func bareSignatures() (float64, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0, err
	}
	message := make([]byte, bareUp)
	signature := ed25519.Sign(private, message)
	return forEachProcessor(runtime.NumCPU(), bareSeconds*time.Second, func() error {
		if !ed25519.Verify(public, message, signature) || len(ed25519.Sign(private, message)) != ed25519.SignatureSize {
			return errors.New("a signature is wrong")
		}
		return nil
	})
}

// bareAppends is how many times per second a page can be appended to a file and be durable.
func bareAppends(dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "appends"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	return forEachProcessor(1, bareSeconds*time.Second, func() error {
		_, err := f.Write(page)
		return errors.Join(err, f.Sync())
	})
}

// A bareServer is another process that does nothing but TLS: at http one that answers requests, at plain one that ends
// every connection after the handshake.
type bareServer struct {
	http, plain string
	cmd         *exec.Cmd
}

func startBare(http, plain string) (*bareServer, error) {
	s := &bareServer{http: http, plain: plain, cmd: exec.Command(os.Args[0], "-bare", http+","+plain)}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		s.stop()
		return nil, fmt.Errorf("the server that does nothing but TLS: %q, %w", line, err)
	}
	return s, nil
}

func (s *bareServer) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// serveBare is the other process. Its certificate is as the manager's: ECDSA P-256, with its CA.
func serveBare(addresses string) error {
	web, plain, _ := strings.Cut(addresses, ",")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bare"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der, der}, PrivateKey: key}}}
	l, err := net.Listen("tcp", plain)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				t := tls.Server(c, config)
				if t.Handshake() == nil {
					t.Read(make([]byte, 1)) // until the client closes
				}
				t.Close()
			}()
		}
	}()
	w, err := net.Listen("tcp", web)
	if err != nil {
		return err
	}
	answer := make([]byte, bareDown)
	server := &http.Server{TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(answer)
	})}
	fmt.Println("ready")
	return server.ServeTLS(w, "", "")
}

// requests is how many requests per second go through connections that are kept.
func (s *bareServer) requests() (float64, error) {
	connections := make(chan *tls.Conn, clients)
	readers := sync.Map{}
	for range clients {
		c, err := tls.Dial("tcp", s.http, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return 0, err
		}
		defer c.Close()
		readers.Store(c, bufio.NewReader(c))
		connections <- c
	}
	request := []byte(fmt.Sprintf("POST / HTTP/1.1\r\nHost: bare\r\nContent-Length: %d\r\n\r\n%s", bareUp, strings.Repeat("x", bareUp)))
	return forEachProcessor(clients, bareSeconds*time.Second, func() error {
		c := <-connections
		defer func() { connections <- c }()
		if _, err := c.Write(request); err != nil {
			return err
		}
		r, _ := readers.Load(c)
		res, err := http.ReadResponse(r.(*bufio.Reader), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return err
	})
}

// handshakes is how many connections per second can be made and ended, with session tickets or without.
func (s *bareServer) handshakes(resumed bool) (float64, error) {
	configs := make(chan *tls.Config, clients)
	for range clients {
		c := &tls.Config{InsecureSkipVerify: true, ServerName: "bare"}
		if resumed {
			c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
		configs <- c
	}
	return forEachProcessor(clients, bareSeconds*time.Second, func() error {
		config := <-configs
		defer func() { configs <- config }()
		c, err := tls.Dial("tcp", s.plain, config)
		if err != nil {
			return err
		}
		if resumed { // the ticket comes after the handshake, with the end
			c.CloseWrite()
			if _, err := io.Copy(io.Discard, c); err != nil {
				c.Close()
				return nil
			}
		}
		return c.Close()
	})
}
