package manager

import (
	"context"
	"fmt"

	"samehost/internal/registry"
)

// Transfer copies a manager's database into another one, as registry.Transfer does. While it runs, serve cannot be started
// in the data folder; where it runs, Transfer refuses.
func Transfer(ctx context.Context, dir, from, to string) (copied []registry.Copied, err error) {
	lock, err := takeLock(dir)
	if err != nil {
		return nil, fmt.Errorf("%w, and on every other machine that uses the database", err)
	}
	defer lock.Close()
	return registry.Transfer(ctx, from, to)
}
