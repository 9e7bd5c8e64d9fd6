package decode

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// CompatDoc is docs/envoy-compat.md: what of Envoy's configuration works, what
// is accepted without effect, and where the effect is another.
func CompatDoc() string {
	var b strings.Builder
	b.WriteString("# Envoy compatibility\n\n" +
		"Generated from the tables in `proxy/config/decode` by\n" +
		"`go test ./proxy/config/decode -run TestCompatDoc -update`; do not edit.\n\n" +
		"outrider reads Envoy's v3 configuration. A message or field that is not listed\n" +
		"here is refused with its path, wherever it stands: in a file, in an Any, in a\n" +
		"resource that arrives by xDS.\n\n")
	b.WriteString("## Accepted without effect\n\n| message | field | why that is safe |\n| --- | --- | --- |\n")
	eachSupported(func(md protoreflect.MessageDescriptor, f fields) {
		for _, name := range sortedKeys(f.ignored) {
			fmt.Fprintf(&b, "| %s | `%s` | %s |\n", short(md.FullName()), name, f.ignored[name])
		}
	})
	b.WriteString("\n## Known differences\n\n")
	for _, d := range differences {
		fmt.Fprintf(&b, "- **%s.** %s\n", d.about, d.text)
	}
	b.WriteString("\n## Fields that work\n\n| message | fields | refused with advice |\n| --- | --- | --- |\n")
	eachSupported(func(md protoreflect.MessageDescriptor, f fields) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", short(md.FullName()), workingCell(md, f), refusedCell(f))
	})
	return b.String()
}

func workingCell(md protoreflect.MessageDescriptor, f fields) string {
	names := strings.Fields(f.works)
	switch {
	case md.Fields().Len() == 0:
		return "(has no fields)"
	case len(names) == md.Fields().Len():
		return "all"
	}
	return codes(names)
}

func refusedCell(f fields) string {
	var cells []string
	for _, name := range sortedKeys(f.refused) {
		cells = append(cells, fmt.Sprintf("`%s`: %s", name, f.refused[name]))
	}
	return strings.Join(cells, "; ")
}

func codes(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "`" + strings.Join(names, "` `") + "`"
}

// short is a message's name as the document writes it.
func short(name protoreflect.FullName) string {
	return strings.TrimPrefix(string(name), "envoy.")
}

// eachSupported calls f for each message of the tables, in the order of their
// names.
func eachSupported(f func(protoreflect.MessageDescriptor, fields)) {
	known := knownTypes()
	var names []protoreflect.FullName
	for _, table := range supportTables() {
		for name := range table {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if mt, ok := known.find(name); ok {
			rule, _ := supported(name)
			f(mt.Descriptor(), rule)
		}
	}
}
