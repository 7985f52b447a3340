package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const sentences = 20 // of section 6.5.1, numbered S1 to S20

var inBackquotes = regexp.MustCompile("`([^`]+)`")

// mapRow is a row of docs/seed-map.md: number, sentence, code, tests.
type mapRow struct {
	table       byte // 'S': sentences of section 6.5.1, all of them; 'R': what other sections say
	number      int
	sentence    string
	code, tests []string // what stands in backquotes
}

// parseMap reads the rows of the table. Lines that begin otherwise are prose.
func parseMap(text string) (rows []mapRow, problems []string) {
	for i, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "| S") && !strings.HasPrefix(line, "| R") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 {
			problems = append(problems, fmt.Sprintf("line %d has %d cells, want 4: number, sentence, code, tests", i+1, len(cells)))
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(cells[0])[1:])
		if err != nil {
			problems = append(problems, fmt.Sprintf("line %d: %q is no number of a sentence", i+1, cells[0]))
			continue
		}
		row := mapRow{table: strings.TrimSpace(cells[0])[0], number: n, sentence: strings.TrimSpace(cells[1])}
		for j, into := range []*[]string{&row.code, &row.tests} {
			for _, m := range inBackquotes.FindAllStringSubmatch(cells[2+j], -1) {
				*into = append(*into, m[1])
			}
		}
		rows = append(rows, row)
	}
	return rows, problems
}

// judgeMap says what is wrong with the map. exists tells files and folders, tests tells the test functions of a folder
// with the texts in them.
func judgeMap(text string, exists func(string) bool, tests func(dir string) map[string][]string) []string {
	rows, problems := parseMap(text)
	seen := map[string]bool{}
	for _, r := range rows {
		at := fmt.Sprintf("%c%d", r.table, r.number)
		if seen[at] {
			problems = append(problems, at+" has two rows")
		}
		seen[at] = true
		if r.table == 'S' && (r.number < 1 || r.number > sentences) {
			problems = append(problems, fmt.Sprintf("%s: there are sentences S1 to S%d", at, sentences))
		}
		if r.sentence == "" {
			problems = append(problems, at+" does not say its sentence")
		}
		if len(r.code) == 0 {
			problems = append(problems, at+" names no code")
		}
		if len(r.tests) == 0 {
			problems = append(problems, at+" names no test")
		}
		for _, c := range r.code {
			if !exists(c) {
				problems = append(problems, fmt.Sprintf("%s: code %s does not exist", at, c))
			}
		}
		for _, name := range r.tests {
			dir, function, isFunction := strings.Cut(name, ": ")
			if !isFunction {
				if path.Ext(name) != ".txtar" || !exists(name) {
					problems = append(problems, fmt.Sprintf("%s: test %s is no script that exists; write FOLDER: TestName[/subtest] or FILE.txtar", at, name))
				}
				continue
			}
			function, subtest, hasSubtest := strings.Cut(function, "/")
			texts, ok := tests(dir)[function]
			if !ok {
				problems = append(problems, fmt.Sprintf("%s: there is no %s in %s", at, function, dir))
			} else if hasSubtest && !slices.Contains(texts, strings.ReplaceAll(subtest, "_", " ")) && !slices.Contains(texts, subtest) {
				problems = append(problems, fmt.Sprintf("%s: %s in %s has no subtest %s", at, function, dir, subtest))
			}
		}
	}
	for n := 1; n <= sentences; n++ {
		if at := fmt.Sprintf("S%d", n); !seen[at] {
			problems = append(problems, at+" has no row")
		}
	}
	return problems
}

func exists(p string) bool {
	_, err := os.Stat(filepath.Join(treeRoot, p))
	return err == nil
}

// testFunctions are the tests and fuzz tests in a folder, each with the texts in its body: subtests are named there.
func testFunctions(files []goFile) func(dir string) map[string][]string {
	return func(dir string) map[string][]string {
		out := map[string][]string{}
		for _, f := range files {
			if f.dir != dir || !f.test {
				continue
			}
			for _, d := range f.ast.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") && !strings.HasPrefix(fn.Name.Name, "Fuzz") || fn.Name.Name == "TestMain" {
					continue
				}
				out[fn.Name.Name] = []string{}
				ast.Inspect(fn, func(n ast.Node) bool {
					if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
						if s, err := strconv.Unquote(l.Value); err == nil {
							out[fn.Name.Name] = append(out[fn.Name.Name], s)
						}
					}
					return true
				})
			}
		}
		return out
	}
}

// Every sentence of the manual has code and a test, and they exist.
func TestSeedMap(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(treeRoot, "docs/seed-map.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range judgeMap(string(b), exists, testFunctions(tree(t))) {
		t.Errorf("docs/seed-map.md: %s", p)
	}
}

// The check itself notices what it is there for.
func TestSeedMapCheck(t *testing.T) {
	t.Parallel()
	var whole strings.Builder
	for n := 1; n <= sentences; n++ {
		fmt.Fprintf(&whole, "| S%d | sentence | `code` | `dir: TestA/one_case`, `x.txtar` |\n", n)
	}
	there := func(p string) bool { return p == "code" || p == "x.txtar" }
	functions := func(dir string) map[string][]string {
		if dir != "dir" {
			return nil
		}
		return map[string][]string{"TestA": {"one case"}}
	}
	if p := judgeMap(whole.String(), there, functions); p != nil {
		t.Fatalf("%q", p)
	}
	last := "| S20 | sentence | `code` | `dir: TestA/one_case`, `x.txtar` |\n"
	for changed, want := range map[string]string{
		"":                                 "S20 has no row",
		last + last:                        "S20 has two rows",
		"| S20 | sentence | `code` |\n":    "line 20 has 3 cells, want 4: number, sentence, code, tests",
		"| S20 | | `code` | `x.txtar` |\n": "S20 does not say its sentence",
		"| S20 | sentence | code | `x.txtar` |\n":                   "S20 names no code",
		"| S20 | sentence | `code` | later |\n":                     "S20 names no test",
		"| S20 | sentence | `none` | `x.txtar` |\n":                 "S20: code none does not exist",
		"| S20 | sentence | `code` | `y.txtar` |\n":                 "S20: test y.txtar is no script that exists; write FOLDER: TestName[/subtest] or FILE.txtar",
		"| S20 | sentence | `code` | `code` |\n":                    "S20: test code is no script that exists; write FOLDER: TestName[/subtest] or FILE.txtar",
		"| S20 | sentence | `code` | `dir: TestB` |\n":              "S20: there is no TestB in dir",
		"| S20 | sentence | `code` | `elsewhere: TestA` |\n":        "S20: there is no TestA in elsewhere",
		"| S20 | sentence | `code` | `dir: TestA/another_case` |\n": "S20: TestA in dir has no subtest another_case",
		last + "| S21 | sentence | `code` | `x.txtar` |\n":          "S21: there are sentences S1 to S20",
		last + "| R1 | sentence | `none` | `x.txtar` |\n":           "R1: code none does not exist",
		last + "| R2 | more | `code` | `dir: TestB` |\n":            "R2: there is no TestB in dir",
		last + "| Sx | sentence | `code` | `x.txtar` |\n":           `line 21: " Sx " is no number of a sentence`,
	} {
		got := judgeMap(strings.Replace(whole.String(), last, changed, 1), there, functions)
		if !slices.Contains(got, want) {
			t.Errorf("%q: got %q, want %s", changed, got, want)
		}
	}
}
