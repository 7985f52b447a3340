package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

const placeholdersName = "placeholders.json"

// placeholdersFile is the manager's list of values that prove nothing, in its one spelling.
type placeholdersFile struct {
	List string `json:"list"`
}

func loadPlaceholders(folder string, now time.Time) (list hardware.Placeholders, unread string, err error) {
	path := filepath.Join(folder, placeholdersName)
	var f placeholdersFile
	err = readState(path, &f)
	if err == nil {
		if list, err = hardware.ParsePlaceholders(strings.NewReader(f.List)); err != nil {
			err = fmt.Errorf("%s: %w: %w", path, hostid.ErrCorrupt, err)
		}
	}
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return list, "", nil
	case !errors.Is(err, hostid.ErrCorrupt):
		return nil, "", err
	}
	name, asideErr := setAside(path, "corrupt", now)
	if asideErr != nil {
		return nil, "", fmt.Errorf("%w; and it cannot be set aside: %w", err, asideErr)
	}
	return nil, fmt.Sprintf("%v; kept as %s", err, filepath.Base(name)), nil
}

// adopt takes the list of placeholders that the last reply brought. The record takes the present facts first, judged
// by the list until now: what it shares with this PC only by a value that ceases to count would be lost else. Whatever
// goes wrong is logged, and the manager sends the list again, since the next report names the one until now.
func (a *Agent) adopt(ctx context.Context, facts hardware.Facts, unread string) {
	offer := a.offer
	if a.offer = ""; offer == "" {
		return
	}
	list, err := hardware.ParsePlaceholders(strings.NewReader(offer))
	if err == nil {
		if list.Digest() == a.known.Digest() {
			return
		}
		if err = a.keeper(facts, unread).TakeFacts(ctx); err == nil {
			err = a.write(placeholdersName, placeholdersFile{list.String()})
		}
	}
	if err != nil {
		if err.Error() != a.unadopted && ctx.Err() == nil {
			a.o.Log.Warn("the manager's list of placeholder values is not used", "reason", err)
			a.unadopted = err.Error()
		}
		return
	}
	a.known, a.unadopted = list, ""
	a.o.Log.Info("the manager's list of placeholder values changed", "values", len(list))
}
