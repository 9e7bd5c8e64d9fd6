package filter

import "reflect"

// Makers are the makers of filters by the type of their configuration
// (config.HTTPFilter.Config).
type Makers map[reflect.Type]Maker

// Add has configurations of cfg's type made by m, and nobody else. cfg may be a
// nil pointer.
func (l Makers) Add(cfg any, m Maker) { l[reflect.TypeOf(cfg)] = m }

// Of is the maker for cfg; nil if there is none.
func (l Makers) Of(cfg any) Maker { return l[reflect.TypeOf(cfg)] }
