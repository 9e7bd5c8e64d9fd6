package h2

// staticEntries is how many entries HPACK's static table has (RFC 7541,
// appendix A).
const staticEntries = 61

// staticTable is RFC 7541's, appendix A: index 1 is its first.
var staticTable = [staticEntries]entry{
	{name: ":authority", fine: true},
	{name: ":method", value: "GET", fine: true},
	{name: ":method", value: "POST", fine: true},
	{name: ":path", value: "/", fine: true},
	{name: ":path", value: "/index.html", fine: true},
	{name: ":scheme", value: "http", fine: true},
	{name: ":scheme", value: "https", fine: true},
	{name: ":status", value: "200", fine: true},
	{name: ":status", value: "204", fine: true},
	{name: ":status", value: "206", fine: true},
	{name: ":status", value: "304", fine: true},
	{name: ":status", value: "400", fine: true},
	{name: ":status", value: "404", fine: true},
	{name: ":status", value: "500", fine: true},
	{name: "accept-charset", fine: true},
	{name: "accept-encoding", value: "gzip, deflate", fine: true},
	{name: "accept-language", fine: true},
	{name: "accept-ranges", fine: true},
	{name: "accept", fine: true},
	{name: "access-control-allow-origin", fine: true},
	{name: "age", fine: true},
	{name: "allow", fine: true},
	{name: "authorization", fine: true},
	{name: "cache-control", fine: true},
	{name: "content-disposition", fine: true},
	{name: "content-encoding", fine: true},
	{name: "content-language", fine: true},
	{name: "content-length", fine: true},
	{name: "content-location", fine: true},
	{name: "content-range", fine: true},
	{name: "content-type", fine: true},
	{name: "cookie", fine: true},
	{name: "date", fine: true},
	{name: "etag", fine: true},
	{name: "expect", fine: true},
	{name: "expires", fine: true},
	{name: "from", fine: true},
	{name: "host", fine: true},
	{name: "if-match", fine: true},
	{name: "if-modified-since", fine: true},
	{name: "if-none-match", fine: true},
	{name: "if-range", fine: true},
	{name: "if-unmodified-since", fine: true},
	{name: "last-modified", fine: true},
	{name: "link", fine: true},
	{name: "location", fine: true},
	{name: "max-forwards", fine: true},
	{name: "proxy-authenticate", fine: true},
	{name: "proxy-authorization", fine: true},
	{name: "range", fine: true},
	{name: "referer", fine: true},
	{name: "refresh", fine: true},
	{name: "retry-after", fine: true},
	{name: "server", fine: true},
	{name: "set-cookie", fine: true},
	{name: "strict-transport-security", fine: true},
	{name: "transfer-encoding", fine: true},
	{name: "user-agent", fine: true},
	{name: "vary", fine: true},
	{name: "via", fine: true},
	{name: "www-authenticate", fine: true},
}

// staticIndex looks for a field in the static table. index is that of the name
// if the value is not there, and 0 if the name is not.
func staticIndex(name, value string) (index int, whole bool) {
	if len(name) == 0 {
		return 0, false
	}
	if name[0] == ':' {
		return staticPseudo(name, value)
	}
	if name == "accept-encoding" {
		return 16, value == "gzip, deflate"
	}
	index = staticName(name)
	return index, index > 0 && value == ""
}

func staticPseudo(name, value string) (index int, whole bool) {
	switch name {
	case ":authority":
		return 1, value == ""
	case ":method":
		if value == "POST" {
			return 3, true
		}
		return 2, value == "GET"
	case ":path":
		if value == "/index.html" {
			return 5, true
		}
		return 4, value == "/"
	case ":scheme":
		if value == "https" {
			return 7, true
		}
		return 6, value == "http"
	case ":status":
		return staticStatus(value)
	}
	return 0, false
}

func staticStatus(value string) (index int, whole bool) {
	switch value {
	case "200":
		return 8, true
	case "204":
		return 9, true
	case "206":
		return 10, true
	case "304":
		return 11, true
	case "400":
		return 12, true
	case "404":
		return 13, true
	case "500":
		return 14, true
	}
	return 8, false
}

// staticName is the index of a name that has no value in the table; 0 if it is
// not there.
func staticName(name string) int {
	switch name {
	case "accept-charset":
		return 15
	case "accept-language":
		return 17
	case "accept-ranges":
		return 18
	case "accept":
		return 19
	case "access-control-allow-origin":
		return 20
	case "age":
		return 21
	case "allow":
		return 22
	case "authorization":
		return 23
	case "cache-control":
		return 24
	case "content-disposition":
		return 25
	case "content-encoding":
		return 26
	case "content-language":
		return 27
	case "content-length":
		return 28
	case "content-location":
		return 29
	case "content-range":
		return 30
	case "content-type":
		return 31
	case "cookie":
		return 32
	case "date":
		return 33
	case "etag":
		return 34
	case "expect":
		return 35
	case "expires":
		return 36
	case "from":
		return 37
	case "host":
		return 38
	case "if-match":
		return 39
	case "if-modified-since":
		return 40
	case "if-none-match":
		return 41
	case "if-range":
		return 42
	case "if-unmodified-since":
		return 43
	case "last-modified":
		return 44
	case "link":
		return 45
	case "location":
		return 46
	case "max-forwards":
		return 47
	case "proxy-authenticate":
		return 48
	case "proxy-authorization":
		return 49
	case "range":
		return 50
	case "referer":
		return 51
	case "refresh":
		return 52
	case "retry-after":
		return 53
	case "server":
		return 54
	case "set-cookie":
		return 55
	case "strict-transport-security":
		return 56
	case "transfer-encoding":
		return 57
	case "user-agent":
		return 58
	case "vary":
		return 59
	case "via":
		return 60
	case "www-authenticate":
		return 61
	}
	return 0
}
