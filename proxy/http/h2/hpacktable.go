package h2

// dynamicTable is the dynamic table of one direction (RFC 7541, section 2.3.2).
type dynamicTable struct {
	table []entry // the oldest first
	base  uint64  // how many entries there were before table[0]
	size  uint32  // of table (section 4.1)
	limit uint32  // of size
}

// entry is a field of a table.
type entry struct {
	name, value string
	fine        bool // the decoder's: it was taken
}

// entryOverhead is what an entry counts beside its strings.
const entryOverhead = 32

func (e *entry) size() uint32 { return uint32(len(e.name) + len(e.value) + entryOverhead) }

// add makes e the newest entry. One that is larger than the table empties it,
// and is not in it (section 4.4).
func (t *dynamicTable) add(e entry) {
	n := e.size()
	t.makeRoom(n)
	if n > t.limit {
		return
	}
	t.table = append(t.table, e)
	t.size += n
}

// makeRoom drops entries until n more bytes fit.
func (t *dynamicTable) makeRoom(n uint32) {
	for len(t.table) > 0 && t.size+n > t.limit {
		t.size -= t.table[0].size()
		t.table[0] = entry{}
		t.table = t.table[1:]
		t.base++
	}
}

func (t *dynamicTable) clear() {
	t.base += uint64(len(t.table))
	t.table, t.size = nil, 0
}
