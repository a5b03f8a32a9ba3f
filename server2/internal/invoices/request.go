package invoices

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const (
	maxInvoiceID = 64  // bytes
	maxMemo      = 256 // bytes
)

// violations collects what is wrong with a request, field by field.
type violations []*errdetails.BadRequest_FieldViolation

// need adds the field unless its value is as it must be. The text does not
// repeat what the field has.
func (v *violations) need(valid bool, field, must string) {
	if !valid {
		*v = append(*v, &errdetails.BadRequest_FieldViolation{Field: field, Description: must, Reason: argumentInvalid})
	}
}

// err returns the caller's error, or nil where there is nothing wrong.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	return refuse(codes.InvalidArgument, argumentInvalid, "a field of the request is missing or malformed", nil,
		&errdetails.BadRequest{FieldViolations: v})
}

const mustBeInvoiceID = "must be 1 to 64 letters, digits, '.', '_' and '-'"

func checkGet(req *server2v1.GetInvoiceRequest) error {
	var v violations
	v.need(isInvoiceID(req.GetInvoiceId()), "invoice_id", mustBeInvoiceID)
	return v.err()
}

func checkPay(req *server2v1.PayInvoiceRequest) error {
	var v violations
	v.need(isInvoiceID(req.GetInvoiceId()), "invoice_id", mustBeInvoiceID)
	if amount := req.GetAmount(); amount == nil {
		v.need(false, "amount", "must be set")
	} else {
		v.need(isCurrency(amount.GetCurrencyCode()), "amount.currency_code", "must be three capital letters, as in ISO 4217")
		v.need(amount.GetMinorUnits() > 0, "amount.minor_units", "must be more than 0")
	}
	v.need(isRequestID(req.GetRequestId()), "request_id", "must be a UUID in lower case, and not the nil UUID")
	v.need(isText(req.GetMemo(), maxMemo), "memo", "must be at most 256 bytes, without U+0000")
	return v.err()
}

func checkList(req *server2v1.ListInvoicesRequest) error {
	var v violations
	v.need(req.GetPageSize() >= 0, "page_size", "must not be negative")
	v.need(req.GetPageToken() == "" || isInvoiceID(req.GetPageToken()), "page_token", "must be the next_page_token of a page before, or empty")
	return v.err()
}

func checkExport(req *server2v1.ExportPaymentsRequest) error {
	var v violations
	v.need(req.GetInvoiceId() == "" || isInvoiceID(req.GetInvoiceId()), "invoice_id", mustBeInvoiceID+", or empty")
	return v.err()
}

func isInvoiceID(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && !isCapital(c) && (c < 'a' || c > 'z') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxInvoiceID
}

// isText reports whether every database keeps s as it is: PostgreSQL has no
// U+0000.
func isText(s string, longest int) bool { return len(s) <= longest && strings.IndexByte(s, 0) < 0 }

func isCurrency(s string) bool {
	return len(s) == 3 && isCapital(s[0]) && isCapital(s[1]) && isCapital(s[2])
}

// isRequestID reports whether s is a UUID as RFC 9562 section 4 writes it, in its
// one spelling, so that two texts are two ids.
func isRequestID(s string) bool {
	if len(s) != 36 || s == "00000000-0000-0000-0000-000000000000" {
		return false
	}
	for i := range len(s) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if c := s[i]; hyphen && c != '-' || !hyphen && !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool   { return '0' <= c && c <= '9' }
func isCapital(c byte) bool { return 'A' <= c && c <= 'Z' }
