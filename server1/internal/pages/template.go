package pages

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"strconv"
)

// parseTemplates returns the templates, and the Content-Security-Policy that allows
// their one stylesheet.
func parseTemplates() (templates *template.Template, policy string, err error) {
	style, err := files.ReadFile("page.css")
	if err != nil {
		return nil, "", err
	}
	templates, err = template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"style": func() template.CSS { return template.CSS(style) },
	}).ParseFS(files, "page.html")
	sum := sha256.Sum256(style)
	return templates, "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'", err
}

// show writes a page once it is complete. After an error nothing has been written.
func (e *exchange) show(status int, name string, data any) error {
	var page bytes.Buffer
	if err := e.site.templates.ExecuteTemplate(&page, name, data); err != nil {
		return err
	}
	h := e.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(page.Len()))
	e.w.WriteHeader(status)
	_, _ = e.w.Write(page.Bytes()) // who has gone needs no page
	return nil
}
