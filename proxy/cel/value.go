package cel

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"
)

// equal compares; numbers of different types by their values. What cannot be
// compared is not equal.
func equal(a, b any) bool {
	if x, ok := a.([]any); ok {
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equal(x[i], y[i]) {
				return false
			}
		}
		return true
	}
	if _, ok := a.(object); ok {
		return false
	}
	if _, ok := b.(object); ok {
		return false
	}
	if _, ok := b.([]any); ok {
		return false
	}
	if c, ok := compareNumbers(a, b); ok {
		return c == 0
	}
	return a == b
}

// compareNumbers is -1, 0 or 1; false if one is no number. NaN is unlike all
// (2).
func compareNumbers(a, b any) (int, bool) {
	switch x := a.(type) {
	case int64:
		switch y := b.(type) {
		case int64:
			return cmp.Compare(x, y), true
		case uint64:
			if x < 0 {
				return -1, true
			}
			return cmp.Compare(uint64(x), y), true
		}
	case uint64:
		switch y := b.(type) {
		case uint64:
			return cmp.Compare(x, y), true
		case int64:
			c, _ := compareNumbers(b, a)
			return -c, true
		}
	}
	x, ok1 := asFloat(a)
	y, ok2 := asFloat(b)
	if ok1 && ok2 && (math.IsNaN(x) || math.IsNaN(y)) {
		return 2, true
	}
	return cmp.Compare(x, y), ok1 && ok2
}

func asFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// ordered is <, <=, > or >=.
func ordered(op string, a, b any) (any, error) {
	c, ok := compareNumbers(a, b)
	if !ok {
		switch x := a.(type) {
		case string:
			var y string
			y, ok = b.(string)
			c = strings.Compare(x, y)
		case time.Duration:
			var y time.Duration
			y, ok = b.(time.Duration)
			c = cmp.Compare(x, y)
		case time.Time:
			var y time.Time
			y, ok = b.(time.Time)
			c = x.Compare(y)
		}
	}
	if !ok {
		return nil, errType
	}
	switch op {
	case "<":
		return c == -1, nil
	case "<=":
		return c == -1 || c == 0, nil
	case ">":
		return c == 1, nil
	}
	return c == 1 || c == 0, nil
}

// arithmetic is + - * / %, of numbers of one type; + joins texts too. What
// does not fit into the type is an error.
func arithmetic(op string, a, b any) (any, error) {
	switch x := a.(type) {
	case int64:
		if y, ok := b.(int64); ok {
			return onInts(op, x, y)
		}
	case uint64:
		if y, ok := b.(uint64); ok {
			return onUints(op, x, y)
		}
	case float64:
		if y, ok := b.(float64); ok {
			return onFloats(op, x, y)
		}
	case string:
		if y, ok := b.(string); ok && op == "+" {
			return x + y, nil
		}
	}
	return nil, errType
}

func onInts(op string, x, y int64) (any, error) {
	switch op {
	case "+":
		if s := x + y; (s > x) == (y > 0) {
			return s, nil
		}
	case "-":
		if s := x - y; (s < x) == (y > 0) {
			return s, nil
		}
	case "*":
		if x == 0 || y == 0 {
			return int64(0), nil
		}
		if s := x * y; s/y == x && (x != math.MinInt64 || y != -1) && (y != math.MinInt64 || x != -1) {
			return s, nil
		}
	default:
		if y == 0 || x == math.MinInt64 && y == -1 {
			return nil, errRange
		}
		if op == "/" {
			return x / y, nil
		}
		return x % y, nil
	}
	return nil, errRange
}

func onUints(op string, x, y uint64) (any, error) {
	switch op {
	case "+":
		if x+y >= x {
			return x + y, nil
		}
	case "-":
		if x >= y {
			return x - y, nil
		}
	case "*":
		if x == 0 || x*y/x == y {
			return x * y, nil
		}
	case "/":
		if y != 0 {
			return x / y, nil
		}
	default:
		if y != 0 {
			return x % y, nil
		}
	}
	return nil, errRange
}

func onFloats(op string, x, y float64) (any, error) {
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "/":
		return x / y, nil
	}
	return nil, errType
}

func toInt(v any) (any, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case uint64:
		if v <= math.MaxInt64 {
			return int64(v), nil
		}
	case float64:
		if v > -math.MaxInt64 && v < math.MaxInt64 {
			return int64(v), nil
		}
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			return n, nil
		}
	case time.Time:
		return v.Unix(), nil
	}
	return nil, errType
}

func toUint(v any) (any, error) {
	switch v := v.(type) {
	case uint64:
		return v, nil
	case int64:
		if v >= 0 {
			return uint64(v), nil
		}
	case float64:
		if v >= 0 && v < math.MaxUint64 {
			return uint64(v), nil
		}
	case string:
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			return n, nil
		}
	}
	return nil, errType
}

func toFloat(v any) (any, error) {
	if f, ok := asFloat(v); ok {
		return f, nil
	}
	if s, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f, nil
		}
	}
	return nil, errType
}

// toText is string().
func toText(v any) (any, error) {
	switch v.(type) {
	case nil, object, []any:
		return nil, errType
	}
	return text(v), nil
}

// text is v as Envoy prints it.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', 6, 64)
	case string:
		return v
	case time.Duration:
		return durationText(v)
	case time.Time:
		return v.UTC().Format("2006-01-02T15:04:05.999999999-07:00")
	case []any:
		return "CelList value"
	}
	return "CelMap value"
}

// durationText is 1h30m where Go has 1h30m0s, and us for µs.
func durationText(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	s := strings.Replace(d.String(), "µ", "u", 1)
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
