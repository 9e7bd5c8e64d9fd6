package docs_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The import table of architecture.md is the law: every import of ours that is
// not in it fails here, and so does a package that it does not name.
func TestImportsFollowTheTable(t *testing.T) {
	allowed := importTable(t)
	for _, p := range packages(t) {
		rule, ok := allowed[p.name]
		if !ok {
			t.Errorf("package %s is not in architecture.md's table", p.name)
			continue
		}
		for _, imp := range p.imports {
			if !rule.allows(imp) {
				t.Errorf("%s imports %s, which architecture.md's table does not allow", p.name, imp)
			}
		}
		delete(allowed, p.name)
	}
	for name := range allowed {
		t.Errorf("architecture.md's table names %s, which is no package", name)
	}
}

type rule struct {
	above   []string // the packages of the rows before
	all     bool
	imports []string
}

func (r rule) allows(imp string) bool {
	return slices.Contains(r.imports, imp) || r.all && slices.Contains(r.above, imp)
}

// importTable reads the table "package | what it is for | may import".
func importTable(t *testing.T) map[string]rule {
	t.Helper()
	text, err := os.ReadFile("architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| package | what it is for | may import |\n| --- | --- | --- |\n")
	if !found {
		t.Fatal("architecture.md has no import table")
	}
	out := map[string]rule{}
	var above []string
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 {
			break
		}
		name := strings.TrimSpace(cells[1])
		r := rule{above: slices.Clone(above)}
		for _, imp := range strings.Split(cells[3], ",") {
			switch imp = strings.TrimSpace(imp); imp {
			case "":
			case "everything above":
				r.all = true
			default:
				r.imports = append(r.imports, imp)
			}
		}
		out[name] = r
		above = append(above, name)
	}
	return out
}

type pkg struct {
	name    string
	imports []string
}

// packages are those of the module that have more than tests, with what they
// import of ours.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles", "outrider/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p struct {
			ImportPath       string
			Imports, GoFiles []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) == 0 {
			continue
		}
		one := pkg{name: strings.TrimPrefix(p.ImportPath, "outrider/")}
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, "outrider/"); ok {
				one.imports = append(one.imports, ours)
			}
		}
		pkgs = append(pkgs, one)
	}
	return pkgs
}
