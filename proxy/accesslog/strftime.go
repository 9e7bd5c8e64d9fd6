package accesslog

import (
	"strconv"
	"time"
)

// appendLetter prints one strftime directive (POSIX, C locale); false if there
// is none of that letter.
func appendLetter(b []byte, t time.Time, letter byte) ([]byte, bool) {
	if layout := layoutOf(letter); layout != "" {
		return t.AppendFormat(b, layout), true
	}
	switch letter {
	case '%':
		return append(b, '%'), true
	case 't':
		return append(b, '\t'), true
	case 'C':
		return appendPadded(b, int64(t.Year()/100), 2, '0'), true
	case 'f':
		return appendFraction(b, t, 9), true
	case 's':
		return appendPadded(b, t.Unix(), 0, '0'), true
	case 'k':
		return appendPadded(b, int64(t.Hour()), 2, ' '), true
	case 'l':
		return appendPadded(b, int64((t.Hour()+11)%12+1), 2, ' '), true
	}
	return appendWeek(b, t, letter)
}

// appendWeek prints the directives that count weeks and their days.
func appendWeek(b []byte, t time.Time, letter byte) ([]byte, bool) {
	year, week := t.ISOWeek()
	sunday, yearDay := int(t.Weekday()), t.YearDay()-1
	monday := (sunday + 6) % 7
	switch letter {
	case 'G':
		return appendPadded(b, int64(year), 4, '0'), true
	case 'g':
		return appendPadded(b, int64(year%100), 2, '0'), true
	case 'V':
		return appendPadded(b, int64(week), 2, '0'), true
	case 'U':
		return appendPadded(b, int64((yearDay+7-sunday)/7), 2, '0'), true
	case 'W':
		return appendPadded(b, int64((yearDay+7-monday)/7), 2, '0'), true
	case 'u':
		return appendPadded(b, int64(monday+1), 1, '0'), true
	case 'w':
		return appendPadded(b, int64(sunday), 1, '0'), true
	}
	return b, false
}

// layoutOf is the directive as a layout of package time, "" if it has none.
func layoutOf(letter byte) string {
	switch letter {
	case 'a':
		return "Mon"
	case 'A':
		return "Monday"
	case 'b', 'h':
		return "Jan"
	case 'B':
		return "January"
	case 'c':
		return "Mon Jan _2 15:04:05 2006"
	case 'd':
		return "02"
	case 'D', 'x':
		return "01/02/06"
	case 'e':
		return "_2"
	case 'F':
		return "2006-01-02"
	case 'H':
		return "15"
	case 'I':
		return "03"
	case 'j':
		return "002"
	case 'm':
		return "01"
	case 'M':
		return "04"
	case 'p':
		return "PM"
	case 'P':
		return "pm"
	case 'r':
		return "03:04:05 PM"
	case 'R':
		return "15:04"
	case 'S':
		return "05"
	case 'T', 'X':
		return "15:04:05"
	case 'y':
		return "06"
	case 'Y':
		return "2006"
	case 'z':
		return "-0700"
	case 'Z':
		return "MST"
	}
	return ""
}

func appendPadded(b []byte, n int64, width int, pad byte) []byte {
	var digits [20]byte
	s := strconv.AppendInt(digits[:0], n, 10)
	for i := len(s); i < width; i++ {
		b = append(b, pad)
	}
	return append(b, s...)
}
