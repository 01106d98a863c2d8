/** Words that names and keys are made of: short, common, none the beginning of another. */

const list = (text: string): readonly string[] => text.trim().split(/\s+/);

export const ADJECTIVES = list(`
  amber ancient autumn bitter brave bright bronze calm careful clever cold copper crimson curious
  dark distant dusty early eager empty faded fancy fierce forest frozen gentle giant golden grand
  green hidden hollow humble icy idle iron jolly keen lazy lively lonely lucky marble mellow misty
  modest narrow noble northern olive orange pale patient plain polite proud purple quick quiet rapid
  rare red restless ripe rough royal rusty sandy scarlet secret sharp shiny silent silver simple
  sleepy slow small smooth snowy soft solid southern spicy steady stormy strange strong sturdy sunny
  sweet swift tall tender thin tidy tiny velvet violet warm weary white wild windy wise wooden
  yellow young`);

export const NOUNS = list(`
  anchor apple arrow badge basket beacon bell blanket bottle branch bridge broom bucket button cabin
  camel candle canyon carpet castle cherry chimney circle clock cloud comet cottage cradle crown
  desert dolphin donkey drum eagle engine falcon feather fiddle flag flute fountain fox garden gate
  goose hammer harbor hat helmet heron hill honey horse island jacket jungle kettle key kite ladder
  lantern lemon letter lion lizard map meadow melon mirror monkey moon mountain needle nest oak ocean
  orchard otter owl paddle palace parrot peach pebble pencil piano pigeon pillow planet pocket pond
  puzzle rabbit ribbon river robin rocket saddle sail shell shield ship shovel spoon squirrel stable
  station stone stove sword table temple tiger tower tractor tree trumpet tunnel turtle valley violin
  wagon walnut whistle window wolf`);

export const FIRST_NAMES = list(`
  Abel Agnes Albert Alma Amos Anton Arthur Beatrice Bernard Blanche Boris Bruno Caleb Carla Cecil
  Clara Conrad Cora Dorothy Edgar Edith Edmund Elias Elsa Emil Esther Eugene Felix Flora Frances
  Gideon Greta Gustav Hannah Harold Hector Helga Hugo Ida Irene Irma Isaac Ivan Jasper Jonas Judith
  Julius Karl Laura Leon Lewis Lorenz Louisa Lucas Luther Mabel Magnus Marcus Martha Matilda Maurice
  Milton Miriam Mona Nathan Nelson Nora Norman Olga Oliver Oscar Otto Paula Percy Philip Ralph Rhoda
  Roland Rosa Rufus Ruth Samson Selma Silas Stella Susan Sylvia Thelma Theodore Thomas Tobias Ursula
  Victor Viola Walter Wanda Wilfred Wilma`);

export const LAST_NAMES = list(`
  Abbott Aldrich Ashton Atwood Bancroft Barlow Baxter Beckett Birch Blackwood Bowen Bradley Bramble
  Brewster Brook Burgess Calloway Carver Chandler Clayton Colby Cooper Crawford Dalton Dawson Denham
  Dixon Draper Eastman Ellery Emerson Fairfax Farrow Fenton Fielding Fisher Fletcher Forrest Foster
  Frost Gardner Garrett Gibson Granger Grover Hadley Hale Hammond Harper Hartley Hawkins Hayward
  Hobart Holden Holloway Hopper Hudson Ingram Jarvis Kendall Kirby Lambert Langdon Lawson Lindley
  Lockwood Lowell Maddox Marlow Mercer Merritt Monroe Mortimer Nash Newell Norton Osborne Palmer
  Parrish Penrose Prescott Quimby Ramsey Redfern Ridley Rollins Rowley Sawyer Sheldon Sinclair
  Spencer Stanton Sutton Tanner Thatcher Thornton Tilden Turner Vance Wakefield Walden Warren Weaver
  Webster Whitaker Wilder Winslow Woodrow Yardley`);

export const TOWNS = list(`
  Antwerp Bergen Bordeaux Boston Bristol Bruges Cadiz Cairo Calais Canton Cardiff Cork Danzig Dover
  Dublin Genoa Ghent Glasgow Hamburg Havana Hull Leith Lima Lisbon London Madrid Malaga Malta Messina
  Milan Naples Odessa Oslo Oxford Paris Plymouth Porto Prague Quebec Riga Rome Rouen Seville Smyrna
  Turin Venice Vienna Warsaw York Zurich`);

export const TRADES = list(`
  baker barber blacksmith bookbinder brewer butcher carpenter chemist clerk cobbler cook doctor
  farmer fiddler gardener glazier goldsmith hatter hunter jeweler lawyer locksmith mason miller miner
  musician painter pharmacist plumber poet potter printer ropemaker sailmaker schoolmaster sculptor
  shepherd shipwright surgeon surveyor tailor teacher watchmaker`);

export const THINGS = list(`
  accordion almanac banjo barometer binoculars bracelet camera cane compass diary dictionary
  flute globe harp inkwell knife lantern locket magnifier medal microscope necklace notebook parasol
  pipe portrait quill ring ruler sextant sketchbook spyglass statue teapot telescope thimble
  thermometer umbrella violin watch whistle`);

export const COLORS = list(`black blue brown gray green orange pink purple red white yellow`);
