package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// testNames are `PACKAGE.TestNAME` and `PACKAGE.TestNAME/CASE`.
var testNames = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)(?:/([^`]+))?`")

// quotes are what a row says that is said.
var quotes = regexp.MustCompile("`([^`]+)`")

func TestEachFaultNamesATestThatAssertsItsWords(t *testing.T) {
	text, err := os.ReadFile("faults.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		named := testNames.FindAllStringSubmatch(line, -1)
		for _, n := range named {
			if stringsOf(t, n[1], n[2], n[3]) == nil {
				t.Errorf("faults.md names %s.%s, case %q, which is no test", n[1], n[2], n[3])
			}
		}
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 4 || strings.Contains(line, "---") || strings.HasPrefix(line, "| fault |") {
			continue
		}
		rows++
		if len(named) != 1 {
			t.Errorf("the row %q names %d tests, want one", cells[0], len(named))
			continue
		}
		said := stringsOf(t, named[0][1], named[0][2], named[0][3])
		for _, fragment := range fragments(cells[1]) {
			if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, fragment) }) {
				t.Errorf("the row %q quotes %q, which its test does not have", cells[0], fragment)
			}
		}
	}
	if rows < 25 {
		t.Errorf("only %d rows are read", rows)
	}
}

// fragments are the pieces of what a cell quotes.
func fragments(cell string) (out []string) {
	for _, q := range quotes.FindAllStringSubmatch(cell, -1) {
		for f := range strings.SplitSeq(q[1], "…") {
			if len(f) > 1 { // a blank or a colon says nothing
				out = append(out, f)
			}
		}
	}
	return out
}

// stringsOf are the string literals of a test, or of one case of its table; nil
// if there is none.
func stringsOf(t *testing.T, dir, test, name string) (out []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, isFunc := d.(*ast.FuncDecl)
			if !isFunc || f.Recv != nil || f.Name.Name != test {
				continue
			}
			if name == "" {
				return literals(f)
			}
			if c := caseOf(f, name); c != nil {
				return literals(c)
			}
		}
	}
	return nil
}

// caseOf is the element of a table that begins with its name, or has it for a
// key.
func caseOf(f *ast.FuncDecl, name string) (found ast.Node) {
	is := func(e ast.Expr) bool {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return false
		}
		text, err := strconv.Unquote(lit.Value)
		return err == nil && text == name
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			if is(n.Key) {
				found = n
			}
		case *ast.CompositeLit:
			if len(n.Elts) > 1 && is(n.Elts[0]) {
				found = n
			}
		}
		return found == nil
	})
	return found
}

func literals(n ast.Node) (out []string) {
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				out = append(out, text)
			}
		}
		return true
	})
	return out
}
