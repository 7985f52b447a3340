package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	module   = "samehost"
	treeRoot = "../.."
)

// rule says what a package may import of ours. A name without a slash lies under internal/.
type rule struct {
	pkg string   // "cmd/*" and "test/*" are those without a rule of their own
	may []string // "internal/*" is all of internal but amtsim
	why string
}

// importTable is the table of docs/architecture.md.
var importTable = []rule{
	{"hostid", nil, "identity does not know hardware: where a record is kept and what is known of a board are data to it"},
	{"wsman", nil, "it is a protocol client and knows nothing of what is asked with it"},
	{"sysconfig", nil, "it is a file format; who reads it decides what it means"},
	{"config", nil, "it is a file format; it hands plain values to cmd"},
	{"amtsettings", []string{"checkin", "config"}, "it joins what the manager told with what a file says, for the programs that reach AMT"},
	{"help", nil, "it is about printing, not about host IDs"},
	{"osservice", nil, "it is about the operating system, not about host IDs"},
	{"mei", nil, "it is a driver's interface"},
	{"amtsim", nil, "the witness is independent: a mistake in wsman or amt must not cancel out in the simulator"},
	{"arch", nil, "it reads the tree and runs none of it"},
	{"hardware", []string{"hostid"}, "it gathers evidence and decides nothing"},
	{"tpmnv", []string{"hostid"}, "it is a Store and needs no more than what a Store is"},
	{"uefivar", []string{"hostid"}, "it is a Store and needs no more than what a Store is"},
	{"hostid/storetest", []string{"hostid"}, "every Store's tests import it, so it must not pull in another Store"},
	{"registry/pgtest", nil, "it starts a server and knows nothing of what is kept in it"},
	{"checkin", []string{"hostid", "hardware"}, "reports carry host IDs and facts; who sends and who takes them is not its business"},
	{"amt", []string{"wsman", "hostid"}, "it is a Store over WS-Management"},
	{"amtinit", []string{"amt", "wsman"}, "it initializes areas and never sees a host ID"},
	{"layout", nil, "it is about columns and lines, not about what they say"},
	{"terminal", []string{"amtinit", "layout"}, "it shows outcomes, and knows the languages that they are told in"},
	{"registry", []string{"checkin", "hostid", "hardware", "sysconfig"}, "identity does not know hardware: it judges evidence, not devices"},
	{"agent", []string{"checkin", "hostid", "hardware"}, "never amt: cmd/samehost-client hands it the Stores"},
	{"intake", []string{"checkin", "hostid"}, "it bounds what comes in, whoever takes it"},
	{"relay", []string{"checkin", "hostid", "hardware", "agent", "amtinit", "intake", "sysconfig"}, "it is a client upwards and a higher system downwards; assets are the registry's"},
	{"manager", []string{"checkin", "hostid", "hardware", "intake", "registry", "amtinit", "sysconfig"}, "it serves what the registry decides"},
	{"cmd/amtsim", []string{"amtsim"}, "the witness is independent, its program too"},
	{"cmd/*", []string{"internal/*"}, "programs wire everything together, but no product contains the simulator"},
	{"test/play", nil, "it drives the programs as a user does"},
	{"test/identity", []string{"agent", "checkin", "hostid", "hardware", "registry"}, "it runs the real client against the real registry in one process, in simulated time"},
	{"test/relay", []string{"agent", "checkin", "hostid", "hardware", "registry", "relay"}, "it puts real relays, and bad ones, between the real client and the real registry in one process"},
	{"test/*", []string{"test/play"}, "what is judged from outside must not know the inside"},
}

// testsMayAlso lists what any _test.go file may import besides.
var testsMayAlso = []string{"internal/amtsim", "internal/hostid/storetest", "internal/registry/pgtest"}

// onlyIn names packages of others that belong into one of ours.
var onlyIn = []struct {
	prefix string
	pkgs   []string
	why    string
}{
	{"database/sql", []string{"internal/registry"}, "SQL lives in one package"},
	{"modernc.org/sqlite", []string{"internal/registry"}, "SQL lives in one package"},
	{"github.com/jackc/pgx", []string{"internal/registry", "internal/registry/pgtest"}, "SQL lives in one package"},
	{"github.com/riverqueue/river", []string{"internal/registry"}, "it works on the database"},
	{"github.com/pressly/goose", []string{"internal/registry"}, "SQL lives in one package"},
	{"github.com/alecthomas/kong", []string{"cmd/*", "internal/help"}, "flags belong to the programs, their help to what prints it"},
	{"github.com/pelletier/go-toml", []string{"internal/config", "internal/manager"}, "config reads the files and hands out structs; init of the manager writes one"},
	{"github.com/fxamacker/cbor", []string{"internal/hostid"}, "the record has one encoder"},
}

// badNames say nothing about what is inside, or name a layer.
var badNames = []string{"util", "utils", "common", "types", "type", "helper", "helpers", "misc", "shared", "base", "core", "lib", "pkg", "interfaces",
	"interface", "mock", "mocks", "errors", "errs", "constants", "consts", "model", "models", "controller", "controllers", "usecase", "usecases",
	"repository", "repositories", "service", "services", "handlers", "dto", "entities", "infrastructure", "domain"}

// goFile is one file, of whatever operating system.
type goFile struct {
	path string // below the tree's root, with slashes
	dir  string
	test bool
	ast  *ast.File
}

func (f goFile) imports() (out []string) {
	for _, i := range f.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue // the parser takes no such import
		}
		out = append(out, p)
	}
	return out
}

// walk visits the tree's own files, not what is built or fetched.
func walk(visit func(path string) error) error {
	return filepath.WalkDir(treeRoot, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(treeRoot, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			switch {
			case rel == "bin", rel == "dist", d.Name() == "node_modules", strings.HasPrefix(d.Name(), ".") && rel != "." && rel != ".ci":
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return visit(rel)
	})
}

var goFiles = sync.OnceValues(func() ([]goFile, error) {
	var out []goFile
	err := walk(func(p string) error {
		if path.Ext(p) != ".go" || strings.Contains(p, "/testdata/") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(treeRoot, p), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		out = append(out, goFile{p, path.Dir(p), strings.HasSuffix(p, "_test.go"), f})
		return nil
	})
	if err == nil && len(out) < 50 {
		err = fmt.Errorf("only %d Go files found: this test reads the wrong folder", len(out))
	}
	return out, err
})

func tree(t *testing.T) []goFile {
	t.Helper()
	files, err := goFiles()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// under brings the table's names into the form of folders.
func under(name string) string {
	if first, _, _ := strings.Cut(name, "/"); first == "cmd" || first == "test" || first == "internal" {
		return name
	}
	return "internal/" + name
}

// ruleFor is the rule of a package: its own, else the one for its kind.
func ruleFor(dir string) (rule, bool) {
	for _, r := range importTable {
		if under(r.pkg) == dir {
			return r, true
		}
	}
	for _, r := range importTable {
		if kind, ok := strings.CutSuffix(r.pkg, "/*"); ok && strings.HasPrefix(dir, kind+"/") {
			return r, true
		}
	}
	return rule{}, false
}

// allowed reports whether a file in dir may import a package of ours.
func allowed(r rule, dir, imported string, test bool) bool {
	if imported == dir || test && slices.Contains(testsMayAlso, imported) {
		return true // a test in package x_test imports x
	}
	for _, m := range r.may {
		if m == "internal/*" && strings.HasPrefix(imported, "internal/") && !slices.Contains(testsMayAlso, imported) || under(m) == imported {
			return true
		}
	}
	return false
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, f := range tree(t) {
		r, ok := ruleFor(f.dir)
		if !ok {
			t.Errorf("%s: package %s stands in no rule; write into importTable and docs/architecture.md what it may import, and why", f.path, f.dir)
			continue
		}
		for _, p := range f.imports() {
			ours, ok := strings.CutPrefix(p, module+"/")
			if ok && !allowed(r, f.dir, ours, f.test) {
				t.Errorf("%s imports %s, but %s may import of ours only %q: %s", f.path, ours, r.pkg, r.may, r.why)
			}
			for _, o := range onlyIn {
				if p != o.prefix && !strings.HasPrefix(p, o.prefix+"/") {
					continue
				}
				if !slices.Contains(o.pkgs, f.dir) && !slices.Contains(o.pkgs, path.Dir(f.dir)+"/*") && !f.test {
					t.Errorf("%s imports %s, which belongs into %q: %s", f.path, p, o.pkgs, o.why)
				}
			}
			if !f.test && (p == "testing" || strings.HasPrefix(p, "testing/")) && f.dir != "internal/hostid/storetest" && f.dir != "internal/registry/pgtest" {
				t.Errorf("%s imports %s: only tests and contract suites do", f.path, p)
			}
		}
	}
}

var pageRow = regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|[^|]+\\| ([^|]+) \\|$")

// judgePage says where the table of docs/architecture.md and the rules differ. Rules for what does not exist need no row.
func judgePage(page string, rules []rule, exists func(string) bool) (problems []string) {
	_, table, _ := strings.Cut(page, "\n## Packages\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := map[string]string{}
	for _, m := range pageRow.FindAllStringSubmatch(table, -1) {
		rows[strings.Trim(m[1], "`")] = m[2]
	}
	for _, r := range rules {
		want := strings.Join(r.may, ", ")
		switch want {
		case "":
			want = "nothing"
		case "internal/*":
			want = "all of internal but amtsim"
		}
		dir := under(r.pkg)
		if got, ok := rows[dir]; ok && got != want {
			problems = append(problems, fmt.Sprintf("%s: the page says that it may import %q, the rule %q", dir, got, want))
		} else if !ok && exists(strings.TrimSuffix(dir, "/*")) {
			problems = append(problems, dir+" has no row")
		}
		delete(rows, dir)
	}
	for dir := range rows {
		problems = append(problems, dir+" has a row and no rule")
	}
	return problems
}

// The page for people says the same as the rules.
func TestPageAgreesWithRules(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(treeRoot, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range judgePage(string(page), importTable, exists) {
		t.Errorf("docs/architecture.md: %s", p)
	}
	rules := []rule{{"hostid", nil, ""}, {"amt", []string{"wsman", "hostid"}, ""}, {"mei", nil, ""}, {"cmd/*", []string{"internal/*"}, ""}}
	right := "# A\n\n## Packages\n\n| `internal/hostid` | a | nothing |\n| `internal/amt` | b | wsman, hostid |\n| `cmd/*` | c | all of internal but amtsim |\n\n## B\n| `x` | y | z |\n"
	there := func(dir string) bool { return dir != "internal/mei" }
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{"| nothing |", "| amt |", "internal/hostid: the page says"},
		{"wsman, hostid", "wsman", "internal/amt: the page says"},
		{"| `internal/amt` | b | wsman, hostid |\n", "", "internal/amt has no row"},
		{"`cmd/*`", "`cmd/x`", "cmd/* has no row"},
		{"| `cmd/*`", "| `internal/new` | d | nothing |\n| `cmd/*`", "internal/new has a row and no rule"},
	} {
		got := judgePage(strings.Replace(right, c.old, c.new, 1), rules, there)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) == 0 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%q for %q: %q, want %q", c.new, c.old, got, c.want)
		}
	}
}

// The rules themselves: what they are there for is refused.
func TestImportRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dir, imported string
		test, want    bool
	}{
		{"internal/agent", "internal/amt", false, false}, {"internal/agent", "internal/hostid", false, true},
		{"internal/amtsim", "internal/wsman", false, false}, {"internal/amtsim", "internal/wsman", true, false},
		{"internal/amt", "internal/amtsim", false, false}, {"internal/amt", "internal/amtsim", true, true},
		{"internal/hostid", "internal/hostid/storetest", true, true}, {"internal/hostid", "internal/hostid/storetest", false, false},
		{"internal/hostid", "internal/hardware", false, false}, {"internal/registry", "internal/amt", true, false},
		{"cmd/dcmamtin", "internal/amtinit", false, true}, {"cmd/dcmamtin", "internal/amtsim", false, false},
		{"cmd/amtsim", "internal/amtsim", false, true}, {"cmd/amtsim", "internal/wsman", false, false},
		{"test/e2e", "internal/amt", false, false}, {"test/e2e", "test/play", false, true}, {"test/play", "internal/config", false, false},
	} {
		r, ok := ruleFor(c.dir)
		if !ok || allowed(r, c.dir, c.imported, c.test) != c.want {
			t.Errorf("%s importing %s (test: %v): rule %q says otherwise", c.dir, c.imported, c.test, r.pkg)
		}
	}
	if _, ok := ruleFor("internal/new"); ok {
		t.Error("a new package needs no rule")
	}
}

// The witness is independent: of others' packages too, wsman and amt share none with the simulator.
func TestWitnessSharesNothing(t *testing.T) {
	t.Parallel()
	users := map[string][2]bool{} // package of others -> used by the simulator, by the client side
	seen := [2]bool{}
	for _, f := range tree(t) {
		side := -1
		switch f.dir {
		case "internal/amtsim":
			side = 0
		case "internal/wsman", "internal/amt":
			side = 1
		}
		if side < 0 || f.test {
			continue
		}
		seen[side] = true
		for _, p := range f.imports() {
			if first, _, _ := strings.Cut(p, "/"); strings.Contains(first, ".") && !strings.HasPrefix(p, "golang.org/x/sys") {
				u := users[p]
				u[side] = true
				users[p] = u
			}
		}
	}
	if !seen[0] || !seen[1] {
		t.Fatalf("simulator and client found: %v", seen)
	}
	for p, u := range users {
		if u[0] && u[1] {
			t.Errorf("%s is used by the simulator and by the client: a mistake in it would cancel out", p)
		}
	}
}

func TestEveryPackageHasACommentAndAName(t *testing.T) {
	t.Parallel()
	comments, names := map[string]bool{}, map[string]bool{}
	for _, f := range tree(t) {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		names[f.dir] = true
		if base := path.Base(f.dir); slices.Contains(badNames, base) || slices.Contains(badNames, name) {
			t.Errorf("%s: package %s is named after no thing of the domain", f.path, name)
		} else if name != "main" && name != base {
			t.Errorf("%s: package %s lies in folder %s", f.path, name, base)
		}
		doc := f.ast.Doc.Text()
		if strings.HasPrefix(doc, "Package "+name+" ") || name == "main" && commandComment(doc, path.Base(f.dir)) {
			comments[f.dir] = true
		}
	}
	for dir := range names {
		if !comments[dir] {
			t.Errorf("%s has no package comment that begins with its name", dir)
		}
	}
}

// commandComment begins with the command's name, as a sentence does or after "Command".
func commandComment(doc, name string) bool {
	doc = strings.TrimPrefix(doc, "Command ")
	return len(doc) > len(name) && strings.EqualFold(doc[:len(name)], name) && doc[len(name)] == ' '
}

// machinePath finds folders of one developer's machine. The parts are joined so that this file does not hold one.
var machinePath = regexp.MustCompile(`(^|[^A-Za-z0-9_.$}-])(/wo` + `rk/|/ro` + `ot/|/ho` + `me/[a-z]|/Us` + `ers/[a-z]|[A-Z]:\\\\?Us` + `ers\\)`)

var machineFolders = []string{"/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "Us" + "ers"}

func TestNoMachinePaths(t *testing.T) {
	t.Parallel()
	count := 0
	err := walk(func(p string) error {
		switch path.Ext(p) {
		case ".go", ".md", ".txt", ".txtar", ".sh", ".js", ".py", ".json", ".toml", ".yml", ".yaml", ".sql", ".mod", ".service", "":
		default:
			return nil
		}
		b, err := os.ReadFile(filepath.Join(treeRoot, p))
		if err != nil {
			return err
		}
		count++
		// The expression is slow over large files, and nearly none holds even a part of it.
		if !slices.ContainsFunc(machineFolders, func(f string) bool { return bytes.Contains(b, []byte(f)) }) {
			return nil
		}
		for _, m := range machinePath.FindAllIndex(b, -1) {
			t.Errorf("%s:%d: %q is a path of somebody's machine", p, 1+bytes.Count(b[:m[0]+1], []byte("\n")), bytes.TrimSpace(b[m[0]:m[1]]))
		}
		return nil
	})
	if err != nil || count < 50 {
		t.Fatalf("%d files read, %v", count, err)
	}
	for text, want := range map[string]bool{
		"see /wo" + "rk/x": true, "\"/ro" + "ot/go\"": true, "cd /ho" + "me/jo": true, "docs/wo" + "rk/x": false, "/ho" + "me/": false, "$HOME/ro" + "ot/": false,
	} {
		if machinePath.MatchString(text) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
}
