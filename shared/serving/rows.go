package serving

import "database/sql"

// Rows returns what scan makes of each row, and closes the rows. Its arguments begin
// with what a query has returned.
func Rows[T any](rows *sql.Rows, err error, scan func() (T, error)) (all []T, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		one, err := scan()
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}
