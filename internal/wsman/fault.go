package wsman

import "errors"

// Fault is a SOAP fault, or another HTTP answer that is no success.
type Fault struct {
	HTTPStatus int    // 400, 500, ...
	Action     string // WS-Addressing action of the fault; "" if the answer was no SOAP
	Code       string // local name: Sender, Receiver
	Subcode    string // local name: DestinationUnreachable, AccessDenied, SchemaValidationError, ...
	Reason     string // as the device wrote it, made printable and bounded
	Detail     string // text of the detail element, e.g. "AMT-STATUS 38"
}

func (f *Fault) Error() string { panic("unwritten") }

// What a call can fail with besides a Fault, a transport error or the context's error.
var (
	ErrLogOn    = errors.New("the log-on was refused")                  // 401 to a correct answer to a fresh challenge
	ErrNoTrust  = errors.New("no CA file and no pin to judge TLS by")   // TLS asked for without trust
	ErrCert     = errors.New("the device's certificate is not trusted") // chain, name or pin does not hold
	ErrTLSOnly  = errors.New("the device speaks TLS on this port")
	ErrNotTLS   = errors.New("the device does not speak TLS on this port")
	ErrTooLarge = errors.New("the reply is larger than allowed")
	ErrBadReply = errors.New("the reply is not what WS-Management allows")
)
