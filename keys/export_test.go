package keys

import "time"

// RefreshKey exports refreshKey to tests.
func (s *Secrets) RefreshKey(at time.Time) (number byte, key []byte) { return s.refreshKey(at) }

// RefreshKeyByNumber exports refreshKeyByNumber to tests.
func (s *Secrets) RefreshKeyByNumber(number byte) []byte { return s.refreshKeyByNumber(number) }
