package registry

import (
	"sync/atomic"
	"time"
)

// Figures say what writing to the database has cost since the Registry was opened.
type Figures struct {
	Writes uint64        // transactions
	Failed uint64        // of them; one that met another and was run again counts anew
	Took   time.Duration // in all: the wait for a connection, the transaction, and its commit
}

// Figures returns them as of now.
func (r *Registry) Figures() Figures {
	return Figures{r.wrote.writes.Load(), r.wrote.failed.Load(), time.Duration(r.wrote.nanos.Load())}
}

type wrote struct{ writes, failed, nanos atomic.Uint64 }

// since counts one that began then.
func (w *wrote) since(began time.Time, err *error) {
	w.writes.Add(1)
	if *err != nil {
		w.failed.Add(1)
	}
	w.nanos.Add(uint64(time.Since(began)))
}
