-- The invoices of one owner, page by page.

CREATE INDEX invoices_owner ON invoices (issuer, subject, invoice_id);
