package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"samehost/internal/amtinit"
)

// What a person reads stands in an amtinit.Text, in both languages. Exempt are the details inside a message, which are
// English as the operating system and the firmware give them: errors.
var (
	prose   = regexp.MustCompile(`[A-Za-z]{2,}[,;:]? [A-Za-z]{2,}`)
	noWords = regexp.MustCompile(`%[-+# 0-9.\[\]]*[a-z]|\\[ux]`) // of a format
	words   = regexp.MustCompile(`[A-Za-z]{2,}`)

	printing = map[string]bool{"Fprint": true, "Fprintf": true, "Fprintln": true, "Print": true, "Printf": true, "Println": true,
		"Sprint": true, "Sprintf": true, "Sprintln": true, "WriteString": true, "say": true, "line": true, "fitted": true}

	// These are names, not language.
	names = []string{"dcmamtin", "dcmamtin: ", "uid %d"}
	// And these are tables of characters.
	tables = map[string]bool{"notFirst": true, "notLast": true}
)

// strayTexts finds the literals of a file that reach a person past amtinit.Text.
func strayTexts(fset *token.FileSet, file *ast.File) (stray []string) {
	var path []ast.Node
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			path = path[:len(path)-1]
			return true
		}
		path = append(path, n)
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil || slices.Contains(names, text) || exempt(path) {
			return true
		}
		foreign := strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII && unicode.IsLetter(r) })
		printed := isPrinted(path) && words.MatchString(noWords.ReplaceAllString(text, ""))
		if foreign || printed || prose.MatchString(text) {
			stray = append(stray, fmt.Sprintf("%s: %s", fset.Position(lit.Pos()), lit.Value))
		}
		return true
	})
	return stray
}

// exempt reports that the literal at the end of the path is a part of a Text, a detail, or nothing that is printed.
func exempt(path []ast.Node) bool {
	for i, n := range path {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return true
		case *ast.Field: // a struct's tag
			return true
		case *ast.ValueSpec:
			if tables[n.Names[0].Name] {
				return true
			}
		case *ast.CompositeLit:
			if n.Type != nil && nameOf(n.Type) == "Text" {
				return true
			}
		case *ast.KeyValueExpr:
			if key := nameOf(n.Key); (key == "EN" || key == "JA") && path[i+1] == n.Value {
				return true
			}
		case *ast.CallExpr:
			switch nameOf(n.Fun) {
			case "Errorf", "New", "panic", "badArgument":
				return true
			}
		}
	}
	return false
}

func isPrinted(path []ast.Node) bool {
	for i := len(path) - 2; i >= 0; i-- {
		switch n := path[i].(type) {
		case *ast.BinaryExpr, *ast.ParenExpr:
		case *ast.CallExpr:
			return printing[nameOf(n.Fun)]
		default:
			return false
		}
	}
	return false
}

// nameOf is the last part of a name, with or without a package.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func TestEveryTextIsInBothLanguages(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, pattern := range []string{"*.go", "../../internal/amtinit/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			checked++
			for _, stray := range strayTexts(fset, file) {
				t.Errorf("%s is printed past amtinit.Text", stray)
			}
			checkTexts(t, fset, file)
		}
	}
	if checked < 15 {
		t.Errorf("only %d files were looked at", checked)
	}
}

// verbs are a format's, in the order of the values that they take.
func verbs(format string) (list []string) {
	next := 1
	for _, m := range regexp.MustCompile(`%(?:\[(\d+)\])?[-+# 0-9.]*([a-z%])`).FindAllStringSubmatch(format, -1) {
		if m[2] == "%" {
			continue
		}
		if m[1] != "" {
			next, _ = strconv.Atoi(m[1])
		}
		list = append(list, fmt.Sprintf("%d%s", next, m[2]))
		next++
	}
	slices.Sort(list)
	return list
}

// checkTexts checks each amtinit.Text that a file spells out: both languages, the same values in both, and only characters
// whose width is the same on every terminal.
func checkTexts(t *testing.T, fset *token.FileSet, file *ast.File) {
	check := func(at token.Pos, en, ja string) {
		where := fset.Position(at)
		if en == "" || ja == "" {
			t.Errorf("%s: a language is missing: %q, %q", where, en, ja)
		}
		if strings.ContainsFunc(en, func(r rune) bool { return r > unicode.MaxASCII }) {
			t.Errorf("%s: %q is no English text", where, en)
		}
		if e, j := verbs(en), verbs(ja); !slices.Equal(e, j) {
			t.Errorf("%s: %q takes %v, %q takes %v", where, en, e, ja, j)
		}
		for _, r := range ja {
			if r > unicode.MaxASCII && !unicode.In(r, unicode.Hiragana, unicode.Katakana, unicode.Han) && !strings.ContainsRune("、。「」ー", r) {
				t.Errorf("%s: %q has %q, whose width or meaning depends on the terminal", where, ja, r)
			}
		}
		if prose.MatchString(noWords.ReplaceAllString(en, "")) && en == ja {
			t.Errorf("%s: %q is English in both languages", where, en)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			text, literal := map[string]string{}, len(n.Elts) == 2
			for i, e := range n.Elts {
				key := []string{"EN", "JA", ""}[min(i, 2)]
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					key, e = nameOf(kv.Key), kv.Value
				}
				lit, ok := e.(*ast.BasicLit)
				if literal = literal && ok && lit.Kind == token.STRING; literal {
					text[key], _ = strconv.Unquote(lit.Value)
				}
			}
			if literal && (nameOf(n.Type) == "Text" || n.Type == nil && isKeyed(n)) {
				check(n.Pos(), text["EN"], text["JA"])
			}
		case *ast.CallExpr:
			if nameOf(n.Fun) == "badArgument" {
				en, okE := n.Args[0].(*ast.BasicLit)
				ja, okJ := n.Args[1].(*ast.BasicLit)
				if !okE || !okJ {
					return true // put together from Texts
				}
				e, _ := strconv.Unquote(en.Value)
				j, _ := strconv.Unquote(ja.Value)
				check(n.Pos(), e, j)
			}
		}
		return true
	})
}

func isKeyed(c *ast.CompositeLit) bool {
	kv, ok := c.Elts[0].(*ast.KeyValueExpr)
	return ok && nameOf(kv.Key) == "EN"
}

// The check above finds what it is there for.
func TestStrayTexts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code string
		n    int
	}{
		{`c.say("this went wrong")`, 1},
		{`c.say("interrupted")`, 1},
		{`c.say("失敗" + name)`, 1},
		{`x := "the whole run"; c.say(x)`, 1},
		{`x := "会議室"; _ = x`, 1},
		{`fmt.Fprintf(w, "%s failed", name)`, 1},
		{`io.WriteString(w, name + " is done")`, 1},
		{`r.line(fmt.Sprintf("%6d  %s  %s", a, b, c))`, 0},
		{`r.line(fmt.Sprintf("%6d targets", a))`, 1},
		{`c.say(amtinit.Text{EN: "this went wrong", JA: "失敗しました"}.In(l))`, 0},
		{`x := map[string]amtinit.Text{"a": {EN: "this went wrong", JA: "失敗しました"}}; _ = x`, 0},
		{`x := map[string]string{"EN": "a", "a b": "this went wrong"}; _ = x`, 1},
		{`return fmt.Errorf("write the log %s: %w", a, b)`, 0},
		{`panic("amtinit: no reason " + string(c))`, 0},
		{`fmt.Fprintln(w, "dcmamtin: " + text)`, 0},
		{`fmt.Fprintf(&b, "\\u{%x}", r)`, 0},
		{`f(field{"exit_code", x})`, 0},
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "x.go", "package x\nfunc f() error {\n"+test.code+"\n}", parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := strayTexts(fset, file); len(got) != test.n {
			t.Errorf("%s: found %q, want %d", test.code, got, test.n)
		}
	}
}

// The maps whose keys come from elsewhere have a text for each.
func TestTextsOfKeys(t *testing.T) {
	t.Parallel()
	var every amtinit.Outcome
	every.Result.EnterpriseAdded, every.Result.AllocationAdded, every.Result.AllocationEnlarged = true, true, true
	for _, d := range done(every) {
		if textDone[d].JA == "" || textWouldDo[d].JA == "" {
			t.Errorf("no text for %s", d)
		}
	}
}
