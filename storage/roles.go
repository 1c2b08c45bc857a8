package storage

// Size is the size of the list as JSON text, as the database and tokens have it.
func (l List) Size() int {
	text, err := l.Value()
	if err != nil {
		return 0
	}
	return len(text.(string))
}
