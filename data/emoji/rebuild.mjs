// Rebuilds the atlases and index.tsv beside this file, bit for bit.
//
//   node rebuild.mjs           write the files
//   node rebuild.mjs --check   build elsewhere, exit 1 if a committed file differs
//
// The packages of package-lock.json are installed into a temporary directory;
// npm checks their hashes. PERENNIAL_EMOJI_MODULES names a directory that
// already holds their node_modules, so that nothing is downloaded.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const TILE = 32
const COLUMNS = 48
const TEST_SHARE = 0.2

// vendor name in index.tsv -> its package
const VENDORS = {
  noto: 'noto',
  twemoji: 'twemoji',
  openmoji: 'openmoji',
  fluent: 'fluent-emoji-flat',
  emojione: 'emojione',
  'noto-v1': 'noto-v1',
  'emojione-v1': 'emojione-v1',
  fxemoji: 'fxemoji',
}
const BY_CODE = ['noto', 'twemoji', 'openmoji', 'fluent'] // these have a chars.json

// "added_in" of emoji-datasource -> year
const YEARS = {
  '0.6': 2010, '0.7': 2014, '1.0': 2015, '2.0': 2015, '3.0': 2016, '4.0': 2016,
  '5.0': 2017, '11.0': 2018, '12.0': 2019, '12.1': 2019, '13.0': 2020,
  '13.1': 2020, '14.0': 2021, '15.0': 2022, '15.1': 2023, '16.0': 2024,
}

// Drawings that were looked at and do not show what the name says.
const WRONG = {
  openmoji: ['1F4DC'], // "scroll" is also the name of a mouse wheel, and that one is in the package
  fluent: ['1F431', '1F533'], // copies of "grinning cat" and of "black medium square"
  'emojione-v1': ['2328', '1FA9F'], // a piano, and a window of a computer screen
}

const here = path.dirname(fileURLToPath(import.meta.url))

function installPackages() {
  if (process.env.PERENNIAL_EMOJI_MODULES) return process.env.PERENNIAL_EMOJI_MODULES
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'emoji-'))
  process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }))
  for (const f of ['package.json', 'package-lock.json']) fs.copyFileSync(path.join(here, f), path.join(dir, f))
  execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: dir, stdio: 'inherit' })
  return dir
}

const root = installPackages()
const file = (...parts) => path.join(root, 'node_modules', ...parts)
const readJson = (...parts) => JSON.parse(fs.readFileSync(file(...parts), 'utf8'))
const load = (...parts) => import(pathToFileURL(file(...parts)))

// Sources disagree on the variation selector FE0F, so codes are compared without it.
const bare = (code) => code.toUpperCase().split('-').filter((c) => c !== 'FE0F').join('-')

// "flag: Côte d’Ivoire" -> "flag-cote-divoire", as the icon sets spell names
function slug(name) {
  return name
    .normalize('NFD')
    .toLowerCase()
    .replace(/[\u0300-\u036f'’“”.]/g, '')
    .replace(/&/g, 'and')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
}
const plainFlag = (name) => name.replace(/^flag-for-(flag-)?/, 'flag-')

function loadEmoji() {
  const names = new Map(readJson('emojibase-data', 'en', 'data.json').map((e) => [bare(e.hexcode), e.label]))
  return readJson('emoji-datasource', 'emoji.json')
    .filter((e) => e.category !== 'Component') // the bare skin tones
    .sort((a, b) => a.sort_order - b.sort_order)
    .map((e) => ({
      code: bare(e.unified),
      codepoints: e.unified,
      name: names.get(bare(e.unified)),
      group: e.category,
      class: e.subcategory,
      year: YEARS[e.added_in],
    }))
}

function loadSet(vendor) {
  const set = readJson('@iconify-json', VENDORS[vendor], 'icons.json')
  return { aliases: {}, ...set, chars: readJson('@iconify-json', VENDORS[vendor], 'chars.json') }
}

// Old names that no source lists, or that two sources read differently.
const OLD_NAMES = {
  'flag-cocos-islands': '1F1E8-1F1E8',
  'blond-haired-person': '1F471',
}

// name -> code, from the sources in order of trust: the CLDR name, the names
// that the sets with code points use, their aliases. A name that a source gives
// to two emoji means nothing (null), also to the sources after it.
function namesOfCodes(emoji, sets) {
  const base = new Set(emoji.map((e) => e.code))
  const known = new Map()
  const learn = (pairs) => {
    const found = new Map()
    for (const [name, code] of pairs) {
      if (!base.has(code) || known.has(name)) continue
      found.set(name, found.has(name) && found.get(name) !== code ? null : code)
    }
    for (const [name, code] of found) known.set(name, code)
  }
  const trusted = BY_CODE.map((v) => sets[v])
  learn(emoji.map((e) => [slug(e.name), e.code]))
  learn(trusted.flatMap((s) => Object.entries(s.chars).map(([c, n]) => [plainFlag(n), bare(c)])))
  learn(trusted.flatMap((s) => {
    const code = new Map(Object.entries(s.chars).map(([c, n]) => [n, bare(c)]))
    return Object.entries(s.aliases).filter(([, a]) => !a.hFlip).map(([n, a]) => [plainFlag(n), code.get(a.parent)])
  }))
  for (const [name, code] of Object.entries(OLD_NAMES)) known.set(name, code)
  return known
}

// icon names by code, for the sets that name their icons like CLDR
function matchByName(set, known) {
  const found = new Map()
  const take = (name, icon) => {
    const code = known.get(plainFlag(name))
    if (code && !found.has(code)) found.set(code, icon)
    return Boolean(code)
  }
  const rest = Object.keys(set.icons).filter((icon) => !take(icon, icon))
  const others = new Set(rest)
  for (const [alias, { parent }] of Object.entries(set.aliases)) {
    if (others.has(parent) && take(alias, parent)) others.delete(parent)
  }
  return found
}

function matchByCode(set) {
  const found = new Map(Object.entries(set.chars).map(([code, icon]) => [bare(code), icon]))
  // fluent keeps this one as the mirrored alias of its left hand, without a code
  if (set.aliases['backhand-index-pointing-right']?.hFlip) found.set('1F449', 'backhand-index-pointing-right')
  return found
}

function matchByTable(set) {
  const found = new Map()
  for (const line of fs.readFileSync(path.join(here, 'fxemoji.txt'), 'utf8').split('\n')) {
    if (!line || line.startsWith('#')) continue
    const [first, ...icons] = line.split(' ')
    icons.forEach((icon, i) => {
      if (icon === '.') return
      if (!set.icons[icon]) throw new Error(`fxemoji.txt: no icon ${icon}`)
      found.set(first.includes('-') ? first : (parseInt(first, 16) + i).toString(16).toUpperCase().padStart(4, '0'), icon)
    })
  }
  return found
}

// The drawing stands in the middle of a canvas three tiles wide and high: this
// resvg panics on a translucent group that lies wholly outside of the canvas,
// and ten drawings have one beside their view box.
function svgOf(set, name) {
  const alias = set.aliases[name]
  const icon = set.icons[alias ? alias.parent : name]
  const { left = 0, top = 0, width = set.width, height = set.height } = icon
  const unknown = Object.keys(alias ?? {}).filter((k) => k !== 'parent' && k !== 'hFlip')
  if (unknown.length) throw new Error(`alias ${name}: ${unknown}`)
  const body = alias?.hFlip ? `<g transform="translate(${width + 2 * left} 0) scale(-1 1)">${icon.body}</g>` : icon.body
  const view = [left - width, top - height, 3 * width, 3 * height].join(' ')
  return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="${3 * TILE}" height="${3 * TILE}" viewBox="${view}">${body}</svg>`
}

// Both codecs are WebAssembly (without SIMD), so every machine computes the same bytes.
const { Resvg, initWasm } = await load('@resvg', 'resvg-wasm', 'index.mjs')
await initWasm(fs.readFileSync(file('@resvg', 'resvg-wasm', 'index_bg.wasm')))
const webpDir = ['@jsquash', 'webp', 'codec', 'enc']
const webp = await (await load(...webpDir, 'webp_enc.js')).default({
  wasmBinary: fs.readFileSync(file(...webpDir, 'webp_enc.wasm')),
})
const { defaultOptions } = await load('@jsquash', 'webp', 'meta.js')

function renderTile(set, name) {
  const svg = new Resvg(svgOf(set, name), { background: '#ffffff', font: { loadSystemFonts: false } })
  const image = svg.render()
  const canvas = image.pixels
  image.free()
  svg.free()
  const tile = new Uint8Array(TILE * TILE * 4)
  for (let y = 0; y < TILE; y++) {
    const start = ((TILE + y) * 3 * TILE + TILE) * 4
    tile.set(canvas.subarray(start, start + TILE * 4), y * TILE * 4)
  }
  return tile
}

function drawAtlas(set, icons) {
  const width = COLUMNS * TILE
  const height = Math.ceil(icons.length / COLUMNS) * TILE
  const atlas = new Uint8ClampedArray(width * height * 4).fill(255) // unused tiles are white
  icons.forEach((icon, i) => {
    const pixels = renderTile(set, icon)
    const x = (i % COLUMNS) * TILE
    const y = Math.floor(i / COLUMNS) * TILE
    for (let row = 0; row < TILE; row++) {
      atlas.set(pixels.subarray(row * TILE * 4, (row + 1) * TILE * 4), ((y + row) * width + x) * 4)
    }
  })
  const options = { ...defaultOptions, lossless: 1, quality: 100, method: 6, exact: 1, near_lossless: 100 }
  return Buffer.from(webp.encode(atlas, width, height, options))
}

// In every class the images with the lowest hashes are the test images.
function splitImages(rows) {
  const hash = (r) => createHash('sha256').update(`${r.domain}/${r.codepoints}`).digest('hex')
  for (const name of new Set(rows.map((r) => r.class))) {
    const ofClass = rows.filter((r) => r.class === name).map((r) => [hash(r), r])
    ofClass.sort((a, b) => (a[0] < b[0] ? -1 : 1))
    const tests = Math.round(TEST_SHARE * ofClass.length)
    ofClass.forEach(([, r], i) => { r.split = i < tests ? 'test' : 'train' })
  }
}

function build() {
  const emoji = loadEmoji()
  const sets = Object.fromEntries(Object.keys(VENDORS).map((v) => [v, loadSet(v)]))
  const known = namesOfCodes(emoji, sets)
  const files = {}
  const rows = []
  for (const [vendor, set] of Object.entries(sets)) {
    const found = vendor === 'fxemoji' ? matchByTable(set) : BY_CODE.includes(vendor) ? matchByCode(set) : matchByName(set, known)
    const drawn = emoji.filter((e) => found.has(e.code) && !WRONG[vendor]?.includes(e.code))
    files[`${vendor}.webp`] = drawAtlas(set, drawn.map((e) => found.get(e.code)))
    drawn.forEach((e, tile) => rows.push({ id: rows.length, domain: vendor, tile, ...e, name: e.name.toLowerCase() }))
  }
  splitImages(rows)
  const columns = ['id', 'domain', 'tile', 'codepoints', 'name', 'group', 'class', 'year', 'split']
  files['index.tsv'] = [columns, ...rows.map((r) => columns.map((c) => r[c]))].map((r) => r.join('\t') + '\n').join('')
  return files
}

const check = process.argv.includes('--check')
let differs = false
for (const [name, content] of Object.entries(build())) {
  const target = path.join(here, name)
  const bytes = Buffer.from(content)
  if (!check) fs.writeFileSync(target, bytes)
  const same = fs.existsSync(target) && fs.readFileSync(target).equals(bytes)
  differs ||= !same
  console.log(`${same ? (check ? 'same   ' : 'wrote  ') : 'DIFFERS'} ${name} ${bytes.length}`)
}
process.exit(differs ? 1 : 0)
