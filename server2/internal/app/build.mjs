// Makes a folder, dist unless another is named, from src and from gen, the clients that buf has generated.
import { copyFileSync, mkdirSync } from 'node:fs'
import { build } from 'esbuild'

const dist = process.argv[2] ?? 'dist'
mkdirSync(dist, { recursive: true })
await build({
  entryPoints: ['src/app.ts'], bundle: true, outfile: `${dist}/app.js`, format: 'esm', target: 'es2022', minify: true,
  legalComments: 'inline', logLevel: 'warning', charset: 'utf8',
})
for (const name of ['index.html', 'app.css']) copyFileSync(`src/${name}`, `${dist}/${name}`)
