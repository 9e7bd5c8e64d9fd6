package decode

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

var update = flag.Bool("update", false, "rewrite docs/envoy-compat.md and the golden files")

const compatFile = "../../../docs/envoy-compat.md"

func TestCompatDocIsWhatTheTablesSay(t *testing.T) {
	want := CompatDoc()
	if *update {
		if err := os.WriteFile(compatFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(compatFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale: run go test ./proxy/config/decode -run TestCompatDoc -update", compatFile)
	}
}

func TestTablesNameFieldsThatExistOnce(t *testing.T) {
	known := knownTypes()
	seen := map[protoreflect.FullName]bool{}
	for _, table := range supportTables() {
		for name, rule := range table {
			if seen[name] {
				t.Errorf("%s is in two tables", name)
			}
			seen[name] = true
			mt, ok := known.find(name)
			if !ok {
				t.Errorf("%s is not a type", name)
				continue
			}
			names := append(strings.Fields(rule.works), strings.Fields(rule.unlessFalse)...)
			names = append(names, sortedKeys(rule.ignored)...)
			slices.Sort(names)
			for i, f := range names {
				if mt.Descriptor().Fields().ByName(protoreflect.Name(f)) == nil {
					t.Errorf("%s has no field %s", name, f)
				}
				if i > 0 && names[i-1] == f {
					t.Errorf("%s.%s is treated twice", name, f)
				}
			}
			for _, f := range sortedKeys(rule.refused) {
				if fd := mt.Descriptor().Fields().ByName(protoreflect.Name(f)); fd == nil {
					t.Errorf("%s has no field %s", name, f)
				} else if how, _ := rule.of(fd); how == works || how == ignored {
					t.Errorf("%s.%s is refused with advice, and accepted", name, f)
				}
			}
		}
	}
}

// A message that a working field leads to, and that has no rule, is one that
// was forgotten.
func TestEveryMessageThatIsReachedHasARule(t *testing.T) {
	eachSupported(func(md protoreflect.MessageDescriptor, rule fields) {
		for name := range strings.FieldsSeq(rule.works) {
			fd := md.Fields().ByName(protoreflect.Name(name))
			if fd == nil {
				continue // reported by TestTablesNameFieldsThatExistOnce
			}
			inner := fd.Message()
			if fd.IsMap() {
				inner = fd.MapValue().Message()
			}
			if inner == nil || hasOwnJSON(inner) {
				continue
			}
			if _, ok := supported(inner.FullName()); !ok {
				t.Errorf("%s.%s works, but %s has no rule", md.FullName(), name, inner.FullName())
			}
		}
	})
}

func TestNothingOfAuthorizationIsIgnored(t *testing.T) {
	eachSupported(func(md protoreflect.MessageDescriptor, rule fields) {
		if strings.Contains(string(md.FullName()), "rbac") && len(rule.ignored) > 0 {
			t.Errorf("%s ignores %v", md.FullName(), sortedKeys(rule.ignored))
		}
	})
}
