package amtinit

// Answer is what a dry run found out about one question.
type Answer string

// The answers. Unknown: the device never came that far.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Findings is what a dry run says about a target, each question in the order in which a device has to pass them.
type Findings struct {
	Reachable   Answer // a connection was taken
	AMT         Answer // it speaks AMT
	LetsIn      Answer // the AMT management user may log on
	Storage     Answer // it has third-party data storage
	Initialized Answer // nothing would have to be changed
	Room        Answer // there is room for what is missing; Yes where nothing is missing
	Enterprises []string
}

// Findings judges the outcome of a dry run.
func (o Outcome) Findings() Findings { return Findings{} }

// Warning is something about a target that is no failure of it.
type Warning struct {
	ID            string // message ID, SHAM2nnn-W
	Cause, Remedy Text
}
