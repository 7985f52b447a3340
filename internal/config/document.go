package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is one file: where each key stands, and the first thing found wrong with it.
type document struct {
	file  string // as given, for messages
	dir   string // full; relative paths start here
	lines map[string]int
	err   error
}

// load reads the file into targets, pointers to structs. A key must be known to at least one target and is set in
// every one that knows it. Fields are found by their toml tag, spelled exactly.
func load(path string, targets ...any) (*document, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	b, err := readBounded(full, maxFile)
	if err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("configuration file %s: %w; write it, or name another with --config", path, Bare(err))
		case errors.Is(err, errTooLong):
			return nil, fmt.Errorf("configuration file %s: longer than %d KiB, as no such file is; name another with --config", path, maxFile>>10)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("configuration file %s: %w; run this as a user who may read it", path, Bare(err))
		}
		if info, statErr := os.Stat(full); statErr == nil && info.IsDir() {
			return nil, fmt.Errorf("configuration file %s: a folder; name the file in it with --config", path)
		}
		return nil, fmt.Errorf("configuration file %s: %w", path, Bare(err))
	}
	d := &document{file: path, dir: filepath.Dir(full)}
	if err := d.decode(b, targets); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *document) decode(b []byte, targets []any) error {
	b = []byte(strings.TrimPrefix(string(b), "\ufeff")) // Notepad's mark
	if text := string(b); strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return fmt.Errorf("%s: UTF-16, which TOML is not written in; save it as UTF-8", d.file)
	}
	var values map[string]any
	if err := toml.Unmarshal(b, &values); err != nil {
		var de *toml.DecodeError
		if !errors.As(err, &de) {
			return fmt.Errorf("%s: not TOML: %w", d.file, err)
		}
		line, column := de.Position()
		what := strings.TrimPrefix(de.Error(), "toml: ")
		if strings.Contains(what, "escape") {
			what += "; write Windows paths in single quotes: 'C:\\folder'"
		}
		return fmt.Errorf("%s:%d:%d: not TOML: %s", d.file, line, column, what)
	}
	d.lines = keyLines(b)
	structs := make([]reflect.Value, len(targets))
	for i, t := range targets {
		structs[i] = reflect.ValueOf(t).Elem()
	}
	d.table("", values, structs)
	return d.err
}

// maxParts is how many parts of a key are looked at; ours have two. Every prefix of a key is kept, so that one of a
// hundred thousand parts would take gigabytes.
const maxParts = 4

// keyLines says on which line each key, with dots between its parts, first stands.
func keyLines(b []byte) map[string]int {
	lines := make(map[string]int)
	var p unstable.Parser
	p.Reset(b)
	note := func(prefix string, keys unstable.Iterator) string {
		for keys.Next() && strings.Count(prefix, ".") < maxParts {
			k := keys.Node()
			prefix += string(k.Data)
			if _, ok := lines[prefix]; !ok {
				lines[prefix] = p.Shape(k.Raw).Start.Line
			}
			prefix += "."
		}
		return prefix
	}
	var inline func(prefix string, kv *unstable.Node)
	inline = func(prefix string, kv *unstable.Node) {
		prefix = note(prefix, kv.Key())
		if v := kv.Value(); v.Kind == unstable.InlineTable {
			for it := v.Children(); it.Next(); {
				if it.Node().Kind == unstable.KeyValue {
					inline(prefix, it.Node())
				}
			}
		}
	}
	table := ""
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = note("", e.Key())
		case unstable.KeyValue:
			inline(table, e)
		}
	}
	return lines
}

// has reports whether the file has the key or table.
func (d *document) has(key string) bool { _, ok := d.lines[key]; return ok }

// maxKeyShown is how much of a key an error shows, in bytes.
const maxKeyShown = 80

// fail notes what is wrong with a key. The first one stays: one clear line at a time.
func (d *document) fail(key, format string, args ...any) {
	if d.err != nil {
		return
	}
	where := d.file
	if line, ok := d.lines[key]; ok {
		where += ":" + strconv.Itoa(line)
	}
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		key = "[" + key[:i] + "] " + key[i+1:]
	}
	if len(key) > maxKeyShown {
		key = strings.ToValidUTF8(key[:maxKeyShown], "") + "..."
	}
	key = strings.Trim(strconv.QuoteToGraphic(key), `"`) // a quoted TOML key may hold anything
	d.err = fmt.Errorf("%s: %s %s", where, key, fmt.Sprintf(format, args...))
}

// table sets the fields of the structs from values, in the order of the file, so that the first mistake of the
// file is the one reported.
func (d *document) table(prefix string, values map[string]any, structs []reflect.Value) {
	names := slices.SortedFunc(maps.Keys(values), func(a, b string) int {
		return cmp.Or(cmp.Compare(d.lines[prefix+a], d.lines[prefix+b]), strings.Compare(a, b))
	})
	for _, name := range names {
		var fields []reflect.Value
		options := ""
		for _, s := range structs {
			for i := range s.NumField() {
				tag, opts, _ := strings.Cut(s.Type().Field(i).Tag.Get("toml"), ",")
				if tag != "" && tag == name {
					fields = append(fields, s.Field(i))
					options = opts
				}
			}
		}
		if len(fields) == 0 {
			d.unknown(prefix, name, structs)
			return
		}
		d.set(prefix+name, values[name], fields, options)
		if d.err != nil {
			return
		}
	}
}

func (d *document) set(key string, value any, fields []reflect.Value, options string) {
	switch fields[0].Interface().(type) {
	case string:
		s, ok := value.(string)
		if n, isInt := value.(int64); isInt && options == "integer" {
			s, ok = strconv.FormatInt(n, 10), true
		}
		if !ok {
			d.fail(key, "must be text in quotes, not %s", kind(value))
			return
		}
		if strings.ContainsFunc(s, unicode.IsControl) { // no path, name or address has any; a multi-line string would bring some
			d.fail(key, "holds a line end or another control character; write it on one line")
			return
		}
		for _, f := range fields {
			f.SetString(s)
		}
	case []string:
		list, ok := value.([]any)
		for _, v := range list {
			_, isText := v.(string)
			ok = ok && isText
		}
		if !ok {
			d.fail(key, `must be a list of texts in quotes, as ["one", "two"]`)
			return
		}
		for _, f := range fields {
			for _, v := range list {
				f.Set(reflect.Append(f, reflect.ValueOf(v)))
			}
		}
	case bool:
		v, ok := value.(bool)
		if !ok {
			d.fail(key, "must be true or false, not %s", kind(value))
			return
		}
		for _, f := range fields {
			f.SetBool(v)
		}
	case time.Duration:
		s, ok := value.(string)
		v, err := time.ParseDuration(s)
		if !ok || err != nil {
			d.fail(key, `must be a time with its unit in quotes, as "2m" or "30s", not %s`, kind(value))
			return
		}
		for _, f := range fields {
			f.SetInt(int64(v))
		}
	case int:
		v, ok := value.(int64)
		if !ok || int64(int(v)) != v {
			d.fail(key, "must be a whole number without quotes")
			return
		}
		for _, f := range fields {
			f.SetInt(v)
		}
	default: // a struct: a table
		v, ok := value.(map[string]any)
		if !ok {
			d.fail(key, "must be a table, written [%s], not %s", key, kind(value))
			return
		}
		d.table(key+".", v, fields)
	}
}

// kind says what was found, without its value: that is how a password written into the wrong place would get
// into a log.
func kind(value any) string {
	switch value.(type) {
	case string:
		return "this text"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return "a date"
	}
}

// unknown reports a key that no target has, and the key that was probably meant.
func (d *document) unknown(prefix, name string, structs []reflect.Value) {
	var known []string
	elsewhere := ""
	for _, s := range structs {
		for i := range s.NumField() {
			tag, _, _ := strings.Cut(s.Type().Field(i).Tag.Get("toml"), ",")
			if tag != "" {
				known = append(known, tag)
			}
			if f := s.Field(i); prefix == "" && f.Kind() == reflect.Struct {
				for j := range f.NumField() {
					if t, _, _ := strings.Cut(f.Type().Field(j).Tag.Get("toml"), ","); t == name {
						elsewhere = tag
					}
				}
			}
		}
	}
	slices.Sort(known)
	known = slices.Compact(known)
	nearest, distance := "", 3 // more than two slips is another word
	for _, k := range known {
		if n := slips(strings.ToLower(name), k); n < distance {
			nearest, distance = k, n
		}
	}
	switch {
	case name == "password" && prefix == "amt.":
		d.fail(prefix+name, "is not known: a password never stands in this file; write password_file or password_env")
	case nearest != "":
		d.fail(prefix+name, "is not known; did you mean %s?", nearest)
	case elsewhere != "":
		d.fail(prefix+name, "is not known here; it belongs under [%s]", elsewhere)
	default:
		d.fail(prefix+name, "is not known; leave it out (known here: %s)", strings.Join(known, ", "))
	}
}

// slips is how many letters were left out, added, or put for another (Levenshtein), counted up to names of 64
// bytes; longer ones are far from everything.
func slips(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

var errTooLong = errors.New("too long to be what it should be")

// readBounded reads a whole file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, errTooLong
	}
	return b, nil
}

// Bare is the error without the operation and path that the caller's message names already.
func Bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
