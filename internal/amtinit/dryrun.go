package amtinit

// Answer is what a dry run found out about one question.
type Answer string

// The answers. Unknown: the device never came that far.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Findings is what a dry run says about a target, each question in the order in which a device has to pass them. Of a
// device that fails at one of the first four, nothing is known of those after it.
type Findings struct {
	Reachable   Answer // a connection was taken
	AMT         Answer // it speaks AMT
	LetsIn      Answer // the AMT management user may log on
	Storage     Answer // it has third-party data storage
	Initialized Answer // nothing would have to be changed
	Room        Answer // there is room for what is missing; Yes where nothing is missing
	Enterprises []string
}

// Findings judges the outcome of a dry run: first by what was seen, then by the reason why the device failed.
func (o Outcome) Findings() Findings {
	f := Findings{Unknown, Unknown, Unknown, Unknown, Unknown, Unknown, o.Result.Enterprises}
	if o.Reached.IsValid() {
		f.Reachable = Yes
	}
	if o.letIn || o.Status != 0 { // only AMT's own methods answer with a status, after the log-on
		f.AMT, f.LetsIn = Yes, Yes
	}
	if len(o.Result.Enterprises) > 0 {
		f.AMT, f.LetsIn, f.Storage = Yes, Yes, Yes
	}
	switch o.Code {
	case "":
		f.AMT, f.LetsIn, f.Storage, f.Initialized, f.Room = Yes, Yes, Yes, No, Yes
		if o.Result.AlreadyInitialized() {
			f.Initialized = Yes
		}
	case NothingAnswers:
		f.Reachable = No
	case NotAMT:
		f.AMT, f.LetsIn, f.Storage = No, Unknown, Unknown
	case LogOnRefused:
		f.LetsIn = No
		// The two ports are registered for AMT. Whatever else asks for a log-on on another port may be anything.
		if p := o.Reached.Port(); p == PortHTTP || p == PortTLS {
			f.AMT = Yes
		}
	case LockedOut: // it let us in before; what counts is that it does not now
		f.AMT, f.LetsIn = Yes, No
	case RealmMissing, NotProvisioned, EnterpriseMode: // all known from answers that come after the log-on
		f.AMT, f.LetsIn = Yes, Yes
	case No3PDS:
		f.AMT, f.LetsIn, f.Storage = Yes, Yes, No
	case EACLFull, AllocationFull, OutOfStorage:
		f.AMT, f.LetsIn, f.Storage, f.Initialized, f.Room = Yes, Yes, Yes, No, No
	case WornOut: // refuses writes, so there was something to write
		f.AMT, f.LetsIn, f.Storage, f.Initialized = Yes, Yes, Yes, No
	case UnexpectedStatus: // from the class of the storage
		f.AMT, f.LetsIn, f.Storage = Yes, Yes, Yes
	}
	return f
}
