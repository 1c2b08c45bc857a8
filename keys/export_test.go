package keys

import "time"

// RefreshKey exports refreshKey to tests.
func (s *Secrets) RefreshKey(at time.Time) (number byte, key []byte) { return s.refreshKey(at) }

// RefreshKeyByNumber exports refreshKeyByNumber to tests.
func (s *Secrets) RefreshKeyByNumber(number byte) []byte { return s.refreshKeyByNumber(number) }

// Stamp exports stamp to tests.
func (s *Secrets) Stamp(kid string, payload []byte) error { return s.stamp(kid, payload) }

// OriginOf exports origin to tests.
func (r *Ring) OriginOf(kid string, payload []byte) Origin {
	v := r.view.Load()
	published := time.Time{}
	for _, row := range v.rows {
		if row.KID == kid {
			published = row.PublishedAt.Time
		}
	}
	return v.secrets.origin(kid, payload, published, r.config().TokenTTL, r.options.Now())
}
